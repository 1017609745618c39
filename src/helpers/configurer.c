/* passt-configurer IFINDEX CHANNEL LIFE NETLINK: changes addresses and routes in the guest's network namespace.
 *
 * It stays in the namespaces of the main process, which starts it while that has all capabilities over the guest's
 * network. It keeps one right, CAP_NET_ADMIN, and one way to use it: a netlink socket that the child opened which
 * made the tap, so the socket is the guest's namespace's for good (net_namespaces(7)). The kernel looks at both,
 * who has opened a socket and who sends, so neither that socket nor that right alone changes anything. A filter
 * without socket(2) and open(2) comes first over the channel (tools/seccomp_policy.py).
 *
 * Orders come from the main process alone, and are checked: addresses and routes of interface IFINDEX. What makes
 * no sense ends the program. Messages on the channel, in the byte order of the machine. To it, in any number:
 *
 *     { u16 type | u16 flags (NLM_F_*) | u32 length | payload of a rtnetlink message }
 *
 * From it: "e" and an errno, i32, for each order that the kernel refused; "d" when a message has been carried out.
 */

#include "confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    CHANNEL = 3,
    LIFE = 4,
    NETLINK = 5,
    MAX_MESSAGE = 16 * 1024,
    BATCH = 64,                   /* their errors have room in the socket's receive buffer */
    ALLOWED_FLAGS = NLM_F_CREATE | NLM_F_REPLACE | NLM_F_APPEND,
};

struct order {
    uint16_t type, flags;
    uint32_t len;
};

static char message[MAX_MESSAGE + 1];
/* Each order becomes a request: a header of 16 bytes in the place of 8, and up to 3 bytes after it. */
static char requests[BATCH * (NLMSG_HDRLEN + NLMSG_ALIGNTO) + MAX_MESSAGE] __attribute__((aligned(NLMSG_ALIGNTO)));
static size_t requests_len;
static int n_requests;
static uint32_t sequence;
static int ifindex;

static int index_at(const char *data)
{
    int32_t found;

    memcpy(&found, data, sizeof(found));
    return found;
}

/* Tell whether all next hops of RTA_MULTIPATH, at least one, lead through our interface. */
static int are_hops_ours(const char *data, size_t len)
{
    struct rtnexthop hop;
    size_t n = 0;

    while (len >= sizeof(hop)) {
        size_t step;

        memcpy(&hop, data, sizeof(hop));
        if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > len || hop.rtnh_ifindex != ifindex)
            return 0;
        n++;
        step = (size_t)RTNH_ALIGN(hop.rtnh_len);
        if (step >= len)
            return 1;
        data += step;
        len -= step;
    }
    return n > 0 && len == 0;
}

/* Tell whether a route leads through our interface, by each attribute that says where it leads. */
static int is_route_ours(const char *payload, size_t len)
{
    size_t at = NLMSG_ALIGN(sizeof(struct rtmsg));
    struct rtattr attribute;
    int n_ours = 0;

    while (at + sizeof(attribute) <= len) {
        const char *data = payload + at + sizeof(attribute);
        size_t data_len;

        memcpy(&attribute, payload + at, sizeof(attribute));
        if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > len - at)
            return 0;
        data_len = attribute.rta_len - sizeof(attribute);
        switch (attribute.rta_type & NLA_TYPE_MASK) {
        case RTA_OIF:
            if (data_len != sizeof(int32_t) || index_at(data) != ifindex)
                return 0;
            n_ours++;
            break;
        case RTA_MULTIPATH:
            if (!are_hops_ours(data, data_len))
                return 0;
            n_ours++;
            break;
        case RTA_NH_ID:
            return 0;
        }
        at += RTA_ALIGN(attribute.rta_len);
    }
    return at >= len && n_ours > 0;
}

static int is_about_ours(const struct order *order, const char *payload)
{
    struct ifaddrmsg address;

    switch (order->type) {
    case RTM_NEWADDR:
    case RTM_DELADDR:
        if (order->len < sizeof(address))
            return 0;
        memcpy(&address, payload, sizeof(address));
        return address.ifa_index == (unsigned)ifindex;
    case RTM_NEWROUTE:
    case RTM_DELROUTE:
        return order->len >= sizeof(struct rtmsg) && is_route_ours(payload, order->len);
    default:
        return 0;
    }
}

/* Tell the main process of a refusal, unless all is as it was wanted; 0 when it is gone. */
static int tell_refusal(int32_t error)
{
    char told[1 + sizeof(error)] = "e";

    if (error == 0 || error == EEXIST || error == ESRCH || error == EADDRNOTAVAIL)
        return 1;
    memcpy(told + 1, &error, sizeof(error));
    return send(CHANNEL, told, sizeof(told), MSG_NOSIGNAL) >= 0;
}

/* Read answers up to that of the last request; 0 when the main process is gone, or the kernel makes no sense. */
static int take_answers(void)
{
    static char answers[64 * 1024] __attribute__((aligned(NLMSG_ALIGNTO)));

    for (;;) {
        struct sockaddr_nl sender = { 0 };
        socklen_t sender_len = sizeof(sender);
        ssize_t len = recvfrom(NETLINK, answers, sizeof(answers), 0, (struct sockaddr *)&sender, &sender_len);
        const struct nlmsghdr *answer = (const struct nlmsghdr *)answers;
        int left = (int)len;

        if (len < 0)
            return 0;
        if (sender.nl_pid != 0)
            continue;             /* sent before the socket was connected to the kernel */
        for (; NLMSG_OK(answer, left); answer = NLMSG_NEXT(answer, left)) {
            if (answer->nlmsg_type != NLMSG_ERROR || answer->nlmsg_len < NLMSG_LENGTH(sizeof(int32_t)))
                continue;
            if (!tell_refusal(-index_at(NLMSG_DATA(answer))))
                return 0;
            if (answer->nlmsg_seq == sequence)
                return 1;
        }
    }
}

/* Have the kernel carry out what was gathered; the last one asks for an answer. 0 if that fails. */
static int carry_out(struct nlmsghdr *newest)
{
    if (!n_requests)
        return 1;
    newest->nlmsg_flags |= NLM_F_ACK;
    if (send(NETLINK, requests, requests_len, 0) < 0 || !take_answers())
        return 0;
    requests_len = 0;
    n_requests = 0;
    return 1;
}

/* Carry out a message of the main process; 0 if it makes no sense, or that is gone. */
static int obey(size_t len)
{
    struct nlmsghdr *request = NULL;
    struct order order;

    for (size_t at = 0; at < len; at += order.len) {
        if (len - at < sizeof(order))
            return 0;
        memcpy(&order, message + at, sizeof(order));
        at += sizeof(order);
        if (order.len > len - at || order.flags & ~ALLOWED_FLAGS || !is_about_ours(&order, message + at))
            return 0;
        if (n_requests == BATCH && !carry_out(request))
            return 0;
        request = (struct nlmsghdr *)(requests + requests_len);
        memset(request, 0, sizeof(*request));
        request->nlmsg_len = (uint32_t)NLMSG_LENGTH(order.len);
        request->nlmsg_type = order.type;
        request->nlmsg_flags = order.flags | NLM_F_REQUEST;
        request->nlmsg_seq = ++sequence;
        memcpy(NLMSG_DATA(request), message + at, order.len);
        requests_len += NLMSG_ALIGN(request->nlmsg_len);
        n_requests++;
    }
    return carry_out(request);
}

int main(int argc, char **argv)
{
    ssize_t len;

    if (argc != 5)
        return 1;
    ifindex = atoi(argv[1]);
    keep_descriptors(3, (int[]){ atoi(argv[2]), atoi(argv[3]), atoi(argv[4]) });
    detach("passt-configure");
    drop_privileges(1ULL << CAP_NET_ADMIN, -1, -1);
    end_with(LIFE);
    restrict_paths(0);
    load_filter(CHANNEL);
    while ((len = recv(CHANNEL, message, sizeof(message), 0)) > 0)
        if (len > MAX_MESSAGE || !obey((size_t)len) || send(CHANNEL, "d", 1, MSG_NOSIGNAL) < 0)
            return 1;
    return 0;
}
