/* log.h - the daemons' log: one event a line, `LEVEL key=value ...`, on stderr.
 *
 * Never used by the plugin or by anything it links (see client.h). Values with blanks
 * or quotes must be written with the q-form: vine_log(LOG_INFO, "path=%s", vine_q(p)).
 */
#ifndef VINE_LOG_H
#define VINE_LOG_H

enum vine_log_level { VINE_LOG_ERR, VINE_LOG_WARNING, VINE_LOG_INFO, VINE_LOG_DEBUG };

/* Lines above this level are dropped. Default VINE_LOG_INFO. */
void vine_log_set_level(enum vine_log_level level);

/* "error", "warning", "info", "debug"; returns -1 and leaves *level for other words. */
int vine_log_parse_level(const char *word, enum vine_log_level *level);

void vine_log(enum vine_log_level level, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Quote a value for a log line: control bytes and quotes become \xNN, cut at 300 bytes.
 * Returns one of four static buffers in turn: use it within one vine_log call. */
const char *vine_q(const char *value);

#endif
