/* Choose the subcommand. */
#include "load.h"

#include <string.h>

static const struct {
	const char *name, *arguments;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "tcp-server", "PORT rr|crr|sink|source|hold LIMIT", cmd_tcp_server },
	{ "rr", "ADDRESS PORT SECONDS", cmd_rr },
	{ "crr", "ADDRESS PORT SECONDS", cmd_crr },
	{ "idle", "ADDRESS PORT COUNT LIMIT", cmd_idle },
	{ "udp-echo", "PORT LIMIT", cmd_udp_echo },
	{ "udp-rt", "ADDRESS PORT SECONDS SIZE", cmd_udp_rt },
	{ "udp-sink", "PORT LIMIT", cmd_udp_sink },
	{ "udp-source", "ADDRESS PORT SIZE SECONDS RATE", cmd_udp_source },
	{ "udp-blast", "PORT SIZE SECONDS RATE LIMIT [joined]", cmd_udp_blast },
	{ "udp-pull", "ADDRESS PORT LIMIT", cmd_udp_pull },
	{ "dhcp", "SECONDS", cmd_dhcp },
	{ "dhcp-flood", "SECONDS RATE", cmd_dhcp_flood },
	{ "udp-ask", "ADDRESS PORT SECONDS RATE", cmd_udp_ask },
	{ "machine", "SOCKET GUEST GATEWAY PORT MTU SECONDS tcp-out|tcp-in|udp-out|udp-in|rr SIZE "
		     "[stream|vhost|vhost-plain|vhost-pages RING]", cmd_machine },
	{ "flood", "KIND INTERFACE SOURCE TARGET PORT RATE SECONDS [MAC]", cmd_flood },
	{ "grip", "KIND INTERFACE SOURCE TARGET PORT COUNT RATE SECONDS", cmd_grip },
	{ "crowd", "ADDRESS PORT COUNT hold|write|read|come-and-go SECONDS", cmd_crowd },
	{ "innocent", "ADDRESS PORT SECONDS TICK", cmd_innocent },
	{ "serve", "PORT LIMIT [other]", cmd_serve },
	{ "bridge", "SOCKET TAP LIMIT", cmd_bridge },
	{ "wire", "PID TAP_HERE TAP_THERE DELAY LIMIT", cmd_wire },
	{ "hold", "TOKEN", cmd_hold },
	{ "spawn-time", "COUNT LIMIT COMMAND...", cmd_spawn_time },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		int status;

		if (argc < 2 || strcmp(argv[1], commands[i].name))
			continue;
		status = commands[i].run(argc - 1, argv + 1);
		if (status == 2)
			fprintf(stderr, "usage: load %s %s\n", commands[i].name, commands[i].arguments);
		return status;
	}
	fputs("usage: load SUBCOMMAND ARGUMENT..., one of:\n", stderr);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "  load %s %s\n", commands[i].name, commands[i].arguments);
	return 2;
}
