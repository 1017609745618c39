# fish completion for qrap(1): written by tools/gen_man.py, do not edit

complete -c qrap -f
complete -c qrap -n '__fish_is_nth_token 1' -s h -l help -d 'Print an overview and exit'
complete -c qrap -n '__fish_is_nth_token 1' -l version -d 'Print the version and exit'
complete -c qrap -n '__fish_is_nth_token 2' -x -a '(__fish_complete_command)'
complete -c qrap -n 'not __fish_is_nth_token 1; and not __fish_is_nth_token 2' -F
