/* The programs pasta, passt, qrap and pesto as pip installs them: starts Python isolated, whatever the caller's environment.
 *
 * A script that pip makes begins with the interpreter alone, so variables that are meant for the caller's own
 * Python (PYTHONHOME, PYTHONPATH, ...) end or change the program before its first line. This one runs
 *
 *     PYTHON [-X gil=1] [-X passt_ignored=SIGNAL[,SIGNAL]] -IS PACKAGE/__main__.py NAME [ARG]...
 *
 * The extension modules are built for one minor version of Python, so its name is known: PYTHON is the one beside
 * this file, as in a virtual environment, else the one that the build was made with, else the system's, as the build
 * may have been made elsewhere. PACKAGE is below the
 * directory that has this one's `bin`, at one of the places where installers put packages. An installation
 * that is elsewhere, as an editable one, is found by Python itself, with -I only.
 *
 * A free-threaded Python is told to have its lock from the beginning: it would take it, with a warning, when it
 * loads the first extension, as ours do not say that they run without.
 *
 * SIGPIPE and SIGXFSZ are named if the caller ignores them, as Python ignores both before it runs any code.
 *
 * Environment and descriptors are passed on untouched: the command that pasta starts gets the caller's.
 */

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From setup.py: PYTHON_NAME, as "python3.11"; BUILD_PYTHON, an absolute path; FREE_THREADED, or not. */

static const char *const PLACES[] = {
    "/lib/" PYTHON_NAME "/site-packages",
    "/lib64/" PYTHON_NAME "/site-packages",
    "/lib/" PYTHON_NAME "/dist-packages",    /* Debian, for what it did not package */
    "/local/lib/" PYTHON_NAME "/dist-packages",
    "/lib/python3/dist-packages",            /* Debian's own packages */
    "",                                      /* pip install --target */
};

static const char *const PYTHONS[] = {
    BUILD_PYTHON,
    "/usr/bin/" PYTHON_NAME,
    "/usr/local/bin/" PYTHON_NAME,
};

/* Write the parts one after another; 0 if they do not fit. */
static int join(char *path, const char *first, const char *second, const char *third)
{
    int len = snprintf(path, PATH_MAX, "%s%s%s", first, second, third);

    return len > 0 && len < PATH_MAX;
}

/* Cut the last component off; 0 if there is none. */
static int go_up(char *path)
{
    char *slash = strrchr(path, '/');

    if (!slash)
        return 0;
    *slash = '\0';
    return 1;
}

static int find_python(char *python, const char *bin)
{
    if (join(python, bin, "/", PYTHON_NAME) && access(python, X_OK) == 0)
        return 1;
    for (size_t i = 0; i < sizeof(PYTHONS) / sizeof(PYTHONS[0]); i++)
        if (join(python, PYTHONS[i], "", "") && access(python, X_OK) == 0)
            return 1;
    return 0;
}

static int find_start(char *start, const char *prefix)
{
    for (size_t i = 0; i < sizeof(PLACES) / sizeof(PLACES[0]); i++)
        if (join(start, prefix, PLACES[i], "/passt/__main__.py") && access(start, R_OK) == 0)
            return 1;
    return 0;
}

static int is_ignored(int number)
{
    struct sigaction action;

    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

/* Name the ignored signals of those that Python ignores; 0 if there are none. */
static int name_ignored(char *option, size_t size)
{
    int has_pipe = is_ignored(SIGPIPE), has_size = is_ignored(SIGXFSZ);

    if (has_pipe && has_size)
        snprintf(option, size, "passt_ignored=%d,%d", SIGPIPE, SIGXFSZ);
    else
        snprintf(option, size, "passt_ignored=%d", has_pipe ? SIGPIPE : SIGXFSZ);
    return has_pipe || has_size;
}

int main(int argc, char **argv)
{
    static char ignored[64];
    static char bin[PATH_MAX], prefix[PATH_MAX], python[PATH_MAX], start[PATH_MAX];
    const char *name = argc > 0 ? argv[0] : "passt";
    char **arguments = calloc((size_t)argc + 12, sizeof(*arguments));
    ssize_t len = readlink("/proc/self/exe", bin, sizeof(bin) - 1);
    int n = 0;

    if (!arguments || len <= 0 || !go_up(bin) || !join(prefix, bin, "", "") || !go_up(prefix)) {
        fprintf(stderr, "%s: cannot find out where this program lies: is /proc mounted?\n", name);
        return 1;
    }
    if (!find_python(python, bin)) {
        fprintf(stderr, "%s: there is no " PYTHON_NAME " in %s, /usr/bin or /usr/local/bin, nor "
                BUILD_PYTHON ": install the program anew\n", name, bin);
        return 1;
    }
    arguments[n++] = python;
#ifdef FREE_THREADED
    arguments[n++] = "-X";
    arguments[n++] = "gil=1";
#endif
    if (name_ignored(ignored, sizeof(ignored))) {
        arguments[n++] = "-X";
        arguments[n++] = ignored;
    }
    if (find_start(start, prefix)) {
        arguments[n++] = "-IS";
        arguments[n++] = start;
    } else {
        arguments[n++] = "-I";
        arguments[n++] = "-m";
        arguments[n++] = "passt";
    }
    arguments[n++] = (char *)name;
    for (int i = 1; i < argc; i++)
        arguments[n++] = argv[i];
    execv(python, arguments);
    fprintf(stderr, "%s: cannot run %s: %s\n", name, python, strerror(errno));
    return 1;
}
