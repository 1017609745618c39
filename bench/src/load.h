/* Load generators of the benchmark: what the subcommands share.
 *
 * One program, `load SUBCOMMAND ...`, is client and server of every measurement that iperf3 does
 * not make. Each subcommand runs for a stated time, ends by itself at a hard limit (see
 * limit_arm()), and prints its result as one line of JSON on standard output. Servers print
 * "listening" once they can be reached. Exit status: 0 result printed, 1 failed (reason on
 * standard error), 2 wrong arguments, 3 hard limit reached.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#define MESSAGE_LEN 64	/* bytes of a request and of a response */

/* Log-linear histogram of nanoseconds: each power of two is split in 2^HIST_SUB_BITS equal
 * buckets, so that a percentile is off by at most 1/64 of itself. */
#define HIST_SUB_BITS 6
#define HIST_BUCKETS ((64 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

struct hist {
	uint64_t count, sum_ns, max_ns;
	uint64_t bucket[HIST_BUCKETS];
};

uint64_t now_ns(void);
void hist_add(struct hist *h, uint64_t ns);
double hist_percentile_us(const struct hist *h, double percent);
void hist_print(const struct hist *h, uint64_t elapsed_ns, uint64_t lost);

void die(const char *what);		/* prints what and errno's text, exits 1 */
void limit_arm(double seconds);		/* exits 3 after that many seconds */
double parse_number(const char *text, const char *name, double min, double max);
void raise_nofile(void);		/* soft limit of descriptors up to the hard one */
void say_listening(void);

union address {
	struct sockaddr any;
	struct sockaddr_in in4;
	struct sockaddr_in6 in6;
};

socklen_t parse_address(const char *host, const char *port, union address *out);
int listen_wildcard(const char *port, int type);	/* dual-stack, SO_REUSEADDR */
int connect_to(const union address *to, socklen_t len, int type);
int connect_path(const char *path);	/* to a UNIX stream socket; exits if that fails */
int send_all(int fd, const void *data, size_t len);	/* 0, or -1 with errno */
int recv_all(int fd, void *data, size_t len);		/* 1 whole, 0 end of stream, -1 errno */

int cmd_tcp_server(int argc, char **argv);
int cmd_rr(int argc, char **argv);
int cmd_crr(int argc, char **argv);
int cmd_idle(int argc, char **argv);
int cmd_udp_echo(int argc, char **argv);
int cmd_udp_rt(int argc, char **argv);
int cmd_udp_sink(int argc, char **argv);
int cmd_udp_source(int argc, char **argv);
int cmd_udp_pull(int argc, char **argv);
int cmd_udp_blast(int argc, char **argv);
int cmd_dhcp(int argc, char **argv);
int cmd_dhcp_flood(int argc, char **argv);
int cmd_udp_ask(int argc, char **argv);
int open_interface(const char *name, int protocol, uint8_t *mac);	/* a packet socket; mac: the interface's */
int cmd_flood(int argc, char **argv);
int cmd_grip(int argc, char **argv);
int cmd_crowd(int argc, char **argv);
int cmd_innocent(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_bridge(int argc, char **argv);
int cmd_wire(int argc, char **argv);
int cmd_machine(int argc, char **argv);
int cmd_hold(int argc, char **argv);
int cmd_spawn_time(int argc, char **argv);

#endif
