#!/bin/busybox sh
# First process of a guest of the tests: loads the drivers of the card, then carries out what the test
# writes to the second serial port, a line "TOKEN COMMAND" each, and answers with the output and a line
# "TOKEN STATUS". The first serial port is the console.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for module in $(cat /modules/order); do
    [ ! -e "/modules/$module.ko" ] || insmod "/modules/$module.ko"
done
ip link set lo up
exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty -echo -onlcr
echo ready
while read -r token command; do
    (eval "$command") </dev/null 2>&1
    printf '\n%s %s\n' "$token" $?
done
poweroff -f
