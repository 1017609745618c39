# fish completion for passtctl(1): written by tools/gen_man.py, do not edit

complete -c passtctl -f
complete -c passtctl -n 'not __fish_seen_subcommand_from list flows stats events metrics log close ports capture' -a 'list flows stats events metrics log close ports capture'
complete -c passtctl -n '__fish_seen_subcommand_from flows' -a 'tcp udp icmp icmp6 link bypass inbound outbound'
complete -c passtctl -n '__fish_seen_subcommand_from log' -a 'debug info warning'
complete -c passtctl -n '__fish_seen_subcommand_from capture' -a 'tcp udp icmp icmp6 link bypass arp ip4 ip6 host net port list get stop'
complete -c passtctl -s w -l write -r -F -d 'Where captured packets go'
complete -c passtctl -l ring -x -d 'Keep captured packets in memory'
complete -c passtctl -l snaplen -x -d 'Bytes of each packet'
complete -c passtctl -s p -l pid -x -d 'PID of the instance'
complete -c passtctl -s s -l socket -r -F -d 'Control socket of the instance'
complete -c passtctl -l json -d 'Print JSON'
complete -c passtctl -l watch -d 'Show flows again and again'
complete -c passtctl -l listen -x -d 'Serve metrics on ADDR:PORT'
complete -c passtctl -s h -l help -d 'Print an overview and exit'
complete -c passtctl -l version -d 'Print the version and exit'
