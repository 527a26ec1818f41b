# Completes faultctl in bash: commands, options, and what a daemon knows: objects and processes.
# Must never print anything, with a daemon or without.

# Asks the daemon that the command line names. $1: a command; $2: a field of its rows. Only words of
# harmless bytes: compgen -W would carry out a $(command) in what a daemon that lies calls an object.
_faultctl_ask() {
  local i socket=()
  for ((i = 1; i < ${#words[@]} - 1; i++)); do
    [[ ${words[i]} == --socket ]] && socket=(--socket "${words[i + 1]}")
  done
  "${words[0]/#\~/$HOME}" "${socket[@]}" "$1" --json 2>/dev/null |
    LC_ALL=C sed -n "s|^ *\"$2\": \"\{0,1\}\([A-Za-z0-9._:@+/-]*\)\"\{0,1\},\{0,1\}\$|\1|p" 2>/dev/null
}

_faultctl() {
  local cur prev words cword
  if declare -F _init_completion >/dev/null; then
    _init_completion -n : || return
  else
    words=("${COMP_WORDS[@]}")
    cword=$COMP_CWORD
    cur=${COMP_WORDS[COMP_CWORD]}
    prev=${COMP_WORDS[COMP_CWORD - 1]}
  fi

  local commands='status objects spaces vmas waiters pins watch wake evict reload top map check doctor'
  local common='--help --socket --json'
  local command='' i
  for ((i = 1; i < cword; i++)); do
    case ${words[i]} in
      --socket) ((i++)) ;;
      -*) ;;
      *)
        command=${words[i]}
        break
        ;;
    esac
  done

  case $prev in
    --socket | --svg)
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "$cur"))
      return
      ;;
    --pid)
      COMPREPLY=($(compgen -W "$(_faultctl_ask spaces pid | grep -vx 0)" -- "$cur"))
      return
      ;;
    --object)
      COMPREPLY=($(compgen -W "$(_faultctl_ask objects name) $(_faultctl_ask objects id)" -- "$cur"))
      declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
      return
      ;;
    --event)
      COMPREPLY=($(compgen -W 'map unmap fault break fork exit' -- "$cur"))
      return
      ;;
    --sort)
      COMPREPLY=($(compgen -W 'pid uid faults missing minor write_protect breaks mapped resident copied waits pins command' -- "$cur"))
      return
      ;;
    --count | --interval | --window | --buckets | --offset | --length) return ;;
  esac

  local options
  case $command in
    '') options="$common --version" ;;
    waiters) options="$common --pid --object" ;;
    pins) options="$common --pid" ;;
    watch) options="$common --pid --object --event --count --rate" ;;
    wake) options="$common --count" ;;
    evict) options="$common --cold --offset --length" ;;
    top) options="$common --interval --count --sort --plain" ;;
    map) options="$common --svg --buckets" ;;
    check) options="$common --window" ;;
    *) options=$common ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$cur"))
    return
  fi
  case $command in
    '') COMPREPLY=($(compgen -W "$commands" -- "$cur")) ;;
    vmas) COMPREPLY=($(compgen -W "$(_faultctl_ask spaces pid | grep -vx 0)" -- "$cur")) ;;
    evict | map)
      COMPREPLY=($(compgen -W "$(_faultctl_ask objects name) $(_faultctl_ask objects id)" -- "$cur"))
      declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
      ;;
    wake)
      COMPREPLY=($(compgen -W "$(_faultctl_ask waiters key)" -- "$cur"))
      declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
      ;;
  esac
}

complete -F _faultctl faultctl
