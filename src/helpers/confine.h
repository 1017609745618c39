/* What the small C programs beside the main process share: begin with nothing but a channel, and give up rights.
 *
 * The main process starts them by posix_spawn(3) while it is trusted, and says all by arguments. What it has to
 * say later comes over the channel. They replace forks of the interpreter, which kept 3 MB each of its memory.
 * Each function that fails ends the program: the main process sees the end of the channel.
 */

#ifndef PASST_CONFINE_H
#define PASST_CONFINE_H

/* Move *n* descriptors, 3 at most, to 3 and on; close all others; null device for the standard ones. */
void keep_descriptors(int n, const int descriptors[]);

/* Block all signals, leave session and directory, and take *name* (15 characters) in lists of processes. */
void detach(const char *name);

/* Give up capabilities but those in the mask *kept*, for good, and be user *uid* and group *gid*; -1: stay. */
void drop_privileges(unsigned long long kept, long uid, long gid);

/* Have Landlock forbid all paths, or all but reading; without Landlock the filter has to do. */
void restrict_paths(int may_read);

/* Read a filter of system calls (struct sock_filter [], or nothing for none) from the channel; load it. */
void load_filter(int channel);

/* End, stopped or not, when the last writer of the pipe *life*, of which we have the only reader, is gone.
 *
 * Call when the user is the last one, and before Landlock and the filter. PR_SET_PDEATHSIG(2const) would not do: it
 * is the process that dies which sends that signal, by its rights of then, and it may have become another user,
 * or be kept from it by Landlock.
 */
void end_with(int life);

#endif
