/* What the small C programs beside the main process share: begin with nothing but a channel, and give up rights.
 *
 * The main process starts them by posix_spawn(3) while it is trusted, and says all by arguments. What it has to
 * say later comes over the channel. They replace forks of the interpreter, which kept 3 MB each of its memory.
 * Each function that fails ends the program: the main process sees the end of the channel.
 */

#ifndef PASST_CONFINE_H
#define PASST_CONFINE_H

/* Move descriptors to 3 and, if *second* is not -1, 4; close all others; null device for the standard ones. */
void keep_descriptors(int first, int second);

/* Block all signals, leave session and directory, and take *name* (15 characters) in lists of processes. */
void detach(const char *name);

/* Give up capabilities but those in the mask *kept*, for good, and be user *uid* and group *gid*; -1: stay. */
void drop_privileges(unsigned long long kept, long uid, long gid);

/* Have Landlock forbid all paths, or all but reading; without Landlock the filter has to do. */
void restrict_paths(int may_read);

/* Read a filter of system calls (struct sock_filter [], or nothing for none) from the channel; load it. */
void load_filter(int channel);

/* End with process *parent*, stopped or not, where that is our parent; 0: its channel tells. */
void end_with(long parent);

#endif
