/* passt-reader watch|ask PATH UID GID CHANNEL LIFE: reads one file for the main process, which has no path any more:
 * resolv.conf, and the file of --policy.
 *
 * It has sight of the host's files, but nobody can tell it what to read. Once its filter has come over the channel,
 * which is the first message, it writes there
 *
 *     watch: "c" and the content of the file, at the start and after each change;
 *     ask:   the content after each order, a byte that may be any, in messages of "m" and a piece; "c" is the last
 *            one. "e" and an errno, i32: the file cannot be read.
 *
 * It has the user that the main process will have, no capability, Landlock as far as it is to be had, under which
 * it may read but not write, and a filter of its own (tools/seccomp_policy.py). It copies the file, and does not
 * look at what is in it. It ends with the main process.
 *
 * Theory of operation of a watch. systemd-resolved and NetworkManager make a new file and rename it over the old
 * one, or point /etc/resolv.conf to a file of theirs; dhclient writes the file in place; a container engine writes
 * it through another mount. inotify(7) tells of a name in its directory, and of writes to a file by the file itself,
 * whatever its mount. So the directory of each symbolic link on the way is watched, that of the file, and the file;
 * where a directory is not there yet, the nearest one above it. An event is a hint: all watches are set anew, and
 * the file is read afterwards, so no change falls between. Where the kernel gives no watch
 * (fs.inotify.max_user_watches), the file is read every few seconds.
 */

#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    CHANNEL = 3,
    LIFE = 4,
    MAX_CONTENT = 64 * 1024,      /* bytes that are looked at; a resolver reads a few hundred */
    MAX_ASKED = 1024 * 1024 + 1,  /* one more than may be in a file that is asked for */
    POLL_MS = 2000,               /* between two readings where nothing tells of changes */
    MAX_LINKS = 40,               /* path_resolution(7) */
    OF_DIRECTORY = IN_DELETE | IN_MOVED_FROM | IN_DELETE_SELF | IN_MOVE_SELF | IN_CREATE | IN_MOVED_TO
                   | IN_CLOSE_WRITE | IN_ATTRIB | IN_ONLYDIR,
    OF_FILE = IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF,
};

/* The path, the target of the symbolic link there, and so on to the last one. */
static char places[MAX_LINKS + 1][PATH_MAX];
static int n_places;
static int watch = -1;
static char content[MAX_CONTENT], last[MAX_CONTENT];
static ssize_t last_len = -1;     /* nothing was sent yet */

/* Cut the last component off; 0 if nothing is left above. */
static int go_up(char *path)
{
    size_t len = strlen(path);

    while (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    while (len > 0 && path[len - 1] != '/')
        path[--len] = '\0';
    while (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    return len > 0;
}

/* Follow the links from places[0] on. */
static void follow_links(void)
{
    static char target[PATH_MAX];

    for (n_places = 1; n_places <= MAX_LINKS; n_places++) {
        const char *link = places[n_places - 1];
        char *next = places[n_places];
        size_t base = 0;
        ssize_t len = readlink(link, target, sizeof(target));

        if (len <= 0 || (size_t)len >= sizeof(target))
            return;
        if (target[0] != '/')
            base = (size_t)(strrchr(link, '/') - link) + 1;
        if (base + (size_t)len >= PATH_MAX)
            return;
        memcpy(next, link, base);
        memcpy(next + base, target, (size_t)len);
        next[base + (size_t)len] = '\0';
    }
    n_places = MAX_LINKS;
}

/* Watch the directory of *path*, or the nearest above it that there is; -1 if the kernel watches none of them. */
static int watch_directory(const char *path)
{
    static char directory[PATH_MAX];

    strcpy(directory, path);
    while (go_up(directory)) {
        if (inotify_add_watch(watch, directory, OF_DIRECTORY) >= 0)
            return 0;
        if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
            return -1;
        if (!directory[1])
            return -1;             /* not even the root directory */
    }
    return 0;
}

/* Watch all that the path leads through now, by a new descriptor. */
static void set_watches(void)
{
    if (watch >= 0)
        close(watch);
    follow_links();
    watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    for (int i = 0; watch >= 0 && i < n_places; i++)
        if (watch_directory(places[i]) < 0) {
            close(watch);
            watch = -1;
        }
    if (watch >= 0)
        inotify_add_watch(watch, places[0], OF_FILE);   /* it may not be there, or not ours to read */
}

/* Tell whether *name* is on the way. */
static int is_on_the_way(const char *name)
{
    size_t len = strlen(name);

    for (int i = 0; i < n_places; i++)
        for (const char *part = places[i]; part; part = strchr(part, '/')) {
            part += strspn(part, "/");
            if (strcspn(part, "/") == len && memcmp(part, name, len) == 0)
                return 1;
        }
    return 0;
}

/* Read the events that wait; tell whether one is of what is on the way, of a watched thing itself, or of lost ones. */
static int take_events(void)
{
    static char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    int found = 0;
    ssize_t len;

    while ((len = read(watch, events, sizeof(events))) > 0)
        for (const char *at = events; at < events + len;) {
            const struct inotify_event *event = (const struct inotify_event *)at;

            found |= event->len == 0 || is_on_the_way(event->name);
            at += sizeof(*event) + event->len;
        }
    return found;
}

/* Read the file, whole lines of it; one that is not there or that may not be read is empty. */
static ssize_t read_content(void)
{
    int fd = open(places[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);   /* a named pipe must not block us */
    ssize_t len = fd < 0 ? 0 : read(fd, content, sizeof(content));

    if (fd >= 0)
        close(fd);
    if (len == MAX_CONTENT) {      /* what is left of an address that is cut off may be another one */
        const char *end = memrchr(content, '\n', MAX_CONTENT);

        len = end ? end - content + 1 : 0;
    }
    return len < 0 ? 0 : len;
}

static int send_message(const char *kind, const void *data, size_t len)
{
    struct iovec parts[2] = { { (void *)kind, 1 }, { (void *)data, len } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

    return sendmsg(CHANNEL, &message, MSG_NOSIGNAL) >= 0;
}

/* Send the content if it is another one than before; 0 when the main process is gone. */
static int send_change(void)
{
    ssize_t len;

    if (watch >= 0 && !take_events() && last_len >= 0)
        return 1;
    set_watches();
    len = read_content();
    if (len == last_len && memcmp(content, last, (size_t)len) == 0)
        return 1;
    memcpy(last, content, (size_t)len);
    last_len = len;
    return send_message("c", content, (size_t)len);
}

/* Wait for a change, or the time to look again; 0 when the main process is gone. */
static int wait_for_change(void)
{
    struct pollfd polled[2] = { { .fd = CHANNEL }, { .fd = watch, .events = POLLIN } };

    return poll(polled, 2, watch >= 0 ? -1 : POLL_MS) >= 0 && !polled[0].revents;
}

/* Send the file, or why that cannot be; 0 when the main process is gone. */
static int answer(void)
{
    int fd = open(places[0], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    size_t left = MAX_ASKED;
    ssize_t len = fd;
    int32_t error;

    while (fd >= 0 && left > 0 && (len = read(fd, content, left < MAX_CONTENT ? left : MAX_CONTENT)) > 0) {
        if (!send_message("m", content, (size_t)len))
            return 0;
        left -= (size_t)len;
    }
    error = len < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return error ? send_message("e", &error, sizeof(error)) : send_message("c", NULL, 0);
}

int main(int argc, char **argv)
{
    int is_asked = argc > 1 && argv[1][0] == 'a';
    char order;

    if (argc != 7 || argv[2][0] != '/' || strlen(argv[2]) >= PATH_MAX)
        return 1;
    strcpy(places[0], argv[2]);
    keep_descriptors(2, (int[]){ atoi(argv[5]), atoi(argv[6]) });
    detach(is_asked ? "passt-policy" : "passt-reader");
    drop_privileges(0, atoi(argv[3]), atoi(argv[4]));
    end_with(LIFE);
    restrict_paths(1);
    load_filter(CHANNEL);
    if (is_asked)
        while (read(CHANNEL, &order, 1) > 0 && answer())
            continue;
    else
        while (send_change() && wait_for_change())
            continue;
    return 0;
}
