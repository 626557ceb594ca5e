/* compile.c - see compile.h.
 *
 * Which byte code survives packing: an image keeps mtimes in whole seconds, and Python
 * compares the seconds (32 bits of them) and the size of the source, so that with a
 * timestamp stays valid, unless the seconds were rounded up when it was made or do not
 * fit; byte code by hash does not depend on times. Both are kept. What is made here is
 * "unchecked hash": the source cannot change in a read-only image, and is not read to
 * compare it. The path in it is where the source appears by default.
 */
#include "daemon/cli/compile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/cli/child.h"
#include "daemon/cli/cleanup.h"
#include "daemon/image/bytes.h"
#include "vine/limits.h"

/* Prints what it compiled and what it could not, in this order. */
static const char script[] =
    "import importlib.util, multiprocessing, os, py_compile, sys, sysconfig\n"
    "from concurrent.futures import ProcessPoolExecutor\n"
    "root, out, shown = sys.argv[1:4]\n"
    "def valid(source, cache):\n"
    "    try:\n"
    "        with open(cache, 'rb') as f:\n"
    "            head = f.read(16)\n"
    "    except OSError:\n"
    "        return False\n"
    "    if len(head) < 16 or head[:4] != importlib.util.MAGIC_NUMBER:\n"
    "        return False\n"
    "    flags = int.from_bytes(head[4:8], 'little')\n"
    "    if flags == 1:\n"
    "        return True\n"
    "    if flags == 3:\n"
    "        with open(source, 'rb') as f:\n"
    "            return head[8:] == importlib.util.source_hash(f.read())\n"
    "    st = os.stat(source)\n"
    "    seconds = st.st_mtime_ns // 10**9\n"
    "    return (flags == 0 and 0 <= seconds < 2**32\n"
    "            and int.from_bytes(head[8:12], 'little') == seconds\n"
    "            and int.from_bytes(head[12:], 'little') == st.st_size % 2**32)\n"
    "def one(source):\n"
    "    cache = importlib.util.cache_from_source(source)\n"
    "    try:\n"
    "        if valid(source, cache):\n"
    "            return 0\n"
    "        to = os.path.join(out, os.path.relpath(cache, root))\n"
    "        os.makedirs(os.path.dirname(to), exist_ok=True)\n"
    "        mode = os.stat(os.path.dirname(source)).st_mode & 0o777\n"
    "        os.chmod(os.path.dirname(to), mode | 0o700)\n"
    "        py_compile.compile(source, to, shown + source[len(root):], True,\n"
    "            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
    "        return 1\n"
    "    except (py_compile.PyCompileError, UnicodeError, ValueError, RecursionError,\n"
    "            MemoryError, SyntaxError):\n"
    "        return 2\n"
    "def sources():\n"
    "    paths = sysconfig.get_paths()\n"
    "    tops = {os.path.realpath(paths[k])\n"
    "            for k in ('stdlib', 'platstdlib', 'purelib', 'platlib')}\n"
    "    seen = set()\n"
    "    for top in sorted(t for t in tops if t.startswith(root + '/')):\n"
    "        if top in seen:\n"
    "            continue\n"
    "        for where, dirs, names in os.walk(top):\n"
    "            dirs[:] = sorted(d for d in dirs if d != '__pycache__'\n"
    "                             and os.path.join(where, d) not in seen)\n"
    "            seen.add(where)\n"
    "            for name in sorted(names):\n"
    "                path = os.path.join(where, name)\n"
    "                if name.endswith('.py') and os.path.isfile(path) and (\n"
    "                        not os.path.islink(path)):\n"
    "                    yield path\n"
    "if __name__ == '__main__':\n"
    "    workers = len(os.sched_getaffinity(0))\n"
    "    fork = multiprocessing.get_context('fork')\n"
    "    with ProcessPoolExecutor(workers, fork) as pool:\n"
    "        done = list(pool.map(one, sources(), chunksize=16))\n"
    "    print(done.count(1), done.count(2))\n";

static int find_python(const char *root, char out[VINE_PATH_MAX], struct vine_err *err)
{
    static const char *const names[] = {"python3", "python"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int n = snprintf(out, VINE_PATH_MAX, "%s/bin/%s", root, names[i]);

        if (n > 0 && n < VINE_PATH_MAX && access(out, X_OK) == 0)
            return 0;
    }
    return vine_err_set(
        err, VINE_EINVAL,
        "cannot compile '%.200s': it has no bin/python3 that can be run; "
        "leave out --compile",
        root);
}

static int take_counts(int fd, struct compiled *out)
{
    char text[64];
    unsigned long long files, failed;
    ssize_t n = pread_whole(fd, text, sizeof(text) - 1, 0);

    text[n > 0 ? n : 0] = '\0';
    if (sscanf(text, "%llu %llu", &files, &failed) != 2)
        return -1;
    *out = (struct compiled){files, failed};
    return 0;
}

int compile_missing(const char *root, const char *prefix, const char *overlay,
                    struct compiled *out, struct vine_err *err)
{
    char python[VINE_PATH_MAX], words[CHILD_WORDS];
    char *argv[] = {python,          (char *)"-I",   (char *)"-B",
                    (char *)"-c",    (char *)script, (char *)root,
                    (char *)overlay, (char *)prefix, NULL};
    auto_fd int counts_fd = memfd_create("vine-counts", MFD_CLOEXEC);
    auto_fd int words_fd = memfd_create("vine-words", MFD_CLOEXEC);
    int status = 0, result;
    pid_t pid;

    if (find_python(root, python, err) < 0)
        return -1;
    cleanup_tree(overlay); /* before it is there: a signal may come between */
    if (counts_fd < 0 || words_fd < 0 || mkdir(overlay, 0700) < 0) {
        vine_err_sys(err, "cannot make '%.300s' for new byte code", overlay);
        cleanup_tree(NULL);
        return -1;
    }
    result = child_start(argv, -1, counts_fd, words_fd, &pid);
    if (result != 0) {
        errno = result;
        return vine_err_sys(err, "cannot run '%.200s' to compile", python);
    }
    cleanup_child(pid);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    cleanup_child(0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
        take_counts(counts_fd, out) == 0)
        return 0;
    child_last_line(words_fd, words);
    return vine_err_set(
        err, VINE_ESYS,
        "cannot compile with '%.150s': %s; leave out --compile, or mend "
        "it",
        python, words);
}
