# fish completion for pesto(1): written by tools/gen_man.py, do not edit

complete -c pesto -f
complete -c pesto -F
complete -c pesto -s s -l show -d 'Print the rules of all tables, before and after a change'
complete -c pesto -s d -l debug -d 'Print what is sent and received on standard error'
complete -c pesto -s h -l help -d 'Print this overview and exit'
complete -c pesto -l version -d 'Print the version and exit'
complete -c pesto -s A -l add -d 'Add the rules of the port options that follow'
complete -c pesto -s D -l delete -d 'Delete the rules of the port options that follow'
complete -c pesto -s C -l clear -x -a 'HOST SPLICE' -d 'Delete all rules of TABLE'
complete -c pesto -s t -l tcp-ports -x -a 'none all auto' -d 'Forward TCP ports of the host to the guest (table HOST)'
complete -c pesto -s u -l udp-ports -x -a 'none all auto' -d 'The same for UDP ports'
complete -c pesto -s T -l tcp-ns -x -a 'none all auto' -d 'Forward TCP ports of the namespace\'s loopback to the host\'s (table'
complete -c pesto -s U -l udp-ns -x -a 'none all auto' -d 'The same for UDP ports'
