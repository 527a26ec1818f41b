# Completes faultctl in fish: commands, options, and what a daemon knows: objects and processes.
# Must never print anything, with a daemon or without.

# Asks the daemon that the command line names. $argv: a command, and a field of its rows.
function __faultctl_ask
    set -l words (commandline -opc)
    set -l socket
    if set -l at (contains -i -- --socket $words)
        set -l next (math $at + 1)
        test $next -le (count $words); and set socket --socket $words[$next]
    end
    command $words[1] $socket $argv[1] --json 2>/dev/null |
        string replace -rf '^ *"'$argv[2]'": "?([^",]+)"?,?$' '$1'
end

function __faultctl_pids
    __faultctl_ask spaces pid | string match -v 0
end

function __faultctl_objects
    __faultctl_ask objects name
    __faultctl_ask objects id
end

set -l commands status objects spaces vmas waiters pins watch wake evict reload top map check doctor
set -l none "not __fish_seen_subcommand_from $commands"

complete -c faultctl -f
complete -c faultctl -n "$none" -a status -d 'the daemon: version, load, faults'
complete -c faultctl -n "$none" -a objects -d 'memory objects: size, owner, use'
complete -c faultctl -n "$none" -a spaces -d 'client processes: mappings, memory, faults by kind'
complete -c faultctl -n "$none" -a vmas -d 'the mappings of one process'
complete -c faultctl -n "$none" -a waiters -d 'who waits for which word, and since when'
complete -c faultctl -n "$none" -a pins -d 'who pins which pages, since when, and how pins were had'
complete -c faultctl -n "$none" -a watch -d 'follow maps, faults, breaks, forks as they happen'
complete -c faultctl -n "$none" -a wake -d 'wake those who wait for a word, for rescue'
complete -c faultctl -n "$none" -a evict -d 'take pages of an object out of memory'
complete -c faultctl -n "$none" -a reload -d 'have the daemon read its settings file again'
complete -c faultctl -n "$none" -a top -d 'follow the load: processes by their faults, live'
complete -c faultctl -n "$none" -a map -d 'what of an object is where: memory, swap, copies, pins'
complete -c faultctl -n "$none" -a check -d 'is the daemon reachable and well'
complete -c faultctl -n "$none" -a doctor -d 'look for what is wrong here, and how to put it right'

complete -c faultctl -s h -l help -d 'what there is'
complete -c faultctl -n "$none" -l version -d 'the version'
complete -c faultctl -l socket -rF -d "the daemon's socket"
complete -c faultctl -l json -d 'print the answer as JSON'

complete -c faultctl -n '__fish_seen_subcommand_from waiters pins watch' -l pid -xa '(__faultctl_pids)' -d 'of this process alone'
complete -c faultctl -n '__fish_seen_subcommand_from waiters watch' -l object -xa '(__faultctl_objects)' -d 'of this object alone'
complete -c faultctl -n '__fish_seen_subcommand_from watch' -l event -xa 'map unmap fault break fork exit' -d 'of these kinds alone'
complete -c faultctl -n '__fish_seen_subcommand_from watch' -l rate -xa all -d 'at most so many a second'
complete -c faultctl -n '__fish_seen_subcommand_from watch wake top' -l count -x -d 'so many'
complete -c faultctl -n '__fish_seen_subcommand_from evict' -l cold -d 'only what nobody has asked for'
complete -c faultctl -n '__fish_seen_subcommand_from evict' -l offset -x -d 'from this byte of the object on'
complete -c faultctl -n '__fish_seen_subcommand_from evict' -l length -x -d 'so many bytes'
complete -c faultctl -n '__fish_seen_subcommand_from top' -l interval -x -d 'seconds between refreshes'
complete -c faultctl -n '__fish_seen_subcommand_from top' -l sort -xa 'pid uid faults missing minor write_protect breaks mapped resident copied waits pins command' -d 'by this column'
complete -c faultctl -n '__fish_seen_subcommand_from top' -l plain -d 'print lines, on a terminal too'
complete -c faultctl -n '__fish_seen_subcommand_from map' -l svg -rF -d 'draw it there, as SVG'
complete -c faultctl -n '__fish_seen_subcommand_from map' -l buckets -x -d 'in so many cells at most'
complete -c faultctl -n '__fish_seen_subcommand_from check' -l window -x -d 'seconds between the two looks'

complete -c faultctl -n '__fish_seen_subcommand_from vmas' -xa '(__faultctl_pids)'
complete -c faultctl -n '__fish_seen_subcommand_from evict map' -xa '(__faultctl_objects)'
complete -c faultctl -n '__fish_seen_subcommand_from wake' -xa '(__faultctl_ask waiters key)'
