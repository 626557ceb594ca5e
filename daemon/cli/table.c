/* table.c - columns as wide as their widest cell; widths count characters of UTF-8. */
#include "daemon/cli/table.h"

#include <stdlib.h>
#include <string.h>

struct table {
    size_t columns, rows, cap;
    bool right[TABLE_COLUMNS_MAX];
    char **cells; /* rows * columns, headings first */
    bool failed;
};

static size_t width_of(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80; /* not a continuation byte */
    return width;
}

static bool make_room(struct table *table)
{
    size_t cap = table->cap * 2 + 16;
    char **cells;

    if (table->rows < table->cap)
        return true;
    cells = realloc(table->cells, cap * table->columns * sizeof(*cells));
    if (cells == NULL)
        return false;
    table->cells = cells;
    table->cap = cap;
    return true;
}

void table_add(struct table *table, const char *const cells[])
{
    if (table == NULL || table->failed)
        return;
    if (!make_room(table)) {
        table->failed = true;
        return;
    }
    for (size_t i = 0; i < table->columns; i++) {
        char *copy = strdup(cells[i]);
        table->cells[table->rows * table->columns + i] = copy;
        table->failed = table->failed || copy == NULL;
    }
    table->rows++;
}

struct table *table_new(const char *const headings[])
{
    struct table *table = calloc(1, sizeof(*table));
    const char *names[TABLE_COLUMNS_MAX];

    if (table == NULL)
        return NULL;
    while (headings[table->columns] != NULL && table->columns < TABLE_COLUMNS_MAX) {
        const char *name = headings[table->columns];
        table->right[table->columns] = *name == '>';
        names[table->columns++] = name + (*name == '>');
    }
    table_add(table, names);
    return table;
}

static void print_row(const struct table *table, size_t row, const size_t widths[],
                      FILE *stream)
{
    for (size_t i = 0; i < table->columns; i++) {
        const char *text = table->cells[row * table->columns + i];
        int pad = (int)(widths[i] - width_of(text));
        bool last = i + 1 == table->columns;

        if (table->right[i])
            (void)fprintf(stream, "%*s%s", pad, "", text);
        else if (last)
            (void)fprintf(stream, "%s", text);
        else
            (void)fprintf(stream, "%s%*s", text, pad, "");
        (void)fputs(last ? "\n" : "  ", stream);
    }
}

int table_print(struct table *table, FILE *stream)
{
    size_t widths[TABLE_COLUMNS_MAX] = {0};
    int result;

    if (table == NULL)
        return -1;
    result = table->failed ? -1 : 0;
    for (size_t i = 0; i < table->rows * table->columns && result == 0; i++) {
        size_t width = width_of(table->cells[i]);
        if (width > widths[i % table->columns])
            widths[i % table->columns] = width;
    }
    for (size_t row = 0; row < table->rows && result == 0; row++)
        print_row(table, row, widths, stream);
    for (size_t i = 0; i < table->rows * table->columns; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
    return result < 0 || ferror(stream) ? -1 : 0;
}

struct figure figure_bytes(uint64_t bytes)
{
    static const char *const units[] = {"kB", "MB", "GB", "TB"};
    double value = (double)bytes / 1000.0;
    struct figure figure;
    size_t unit = 0;

    while (value >= 999.95 && unit < 3) {
        value /= 1000.0;
        unit++;
    }
    if (bytes < 1000)
        (void)snprintf(figure.text, sizeof(figure.text), "%u B", (unsigned)bytes);
    else
        (void)snprintf(figure.text, sizeof(figure.text), "%.1f %s", value, units[unit]);
    return figure;
}

struct figure figure_seconds(uint64_t seconds)
{
    struct figure figure;
    const char *unit = "s";

    if (seconds >= 2 * 86400) {
        seconds /= 86400;
        unit = "d";
    } else if (seconds >= 2 * 3600) {
        seconds /= 3600;
        unit = "h";
    } else if (seconds >= 120) {
        seconds /= 60;
        unit = "min";
    }
    (void)snprintf(figure.text, sizeof(figure.text), "%llu %s",
                   (unsigned long long)seconds, unit);
    return figure;
}

struct figure figure_number(uint64_t number)
{
    struct figure figure;

    (void)snprintf(figure.text, sizeof(figure.text), "%llu",
                   (unsigned long long)number);
    return figure;
}

struct figure figure_count(uint64_t number)
{
    struct figure plain = figure_number(number), figure;
    size_t len = strlen(plain.text), used = 0;

    for (size_t i = 0; i < len && used + 2 < sizeof(figure.text); i++) {
        if (i > 0 && (len - i) % 3 == 0)
            figure.text[used++] = ',';
        figure.text[used++] = plain.text[i];
    }
    figure.text[used] = '\0';
    return figure;
}
