# Runs one program for a test process and outlives neither: guard.sh DIRECTORY SIGNAL COMMAND…
# Orders come as lines on standard input, each is answered with a line. When the input ends (the test process is
# gone, however it died) the program is ended with SIGNAL and DIRECTORY is removed.
directory=$1
last_signal=$2
shift 2
program=

end() {
    [ -n "$program" ] || return 127
    kill -s "$1" "$program" 2>/dev/null
    kill -s CONT "$program" 2>/dev/null
    wait "$program" 2>/dev/null
    status=$?
    program=
    return $status
}

while read -r order signal; do
    case $order in
    start)
        # At once, not when the background shell gets to it: what an earlier life wrote must be gone by the answer.
        : >"$directory/out"
        "$@" </dev/null >>"$directory/out" 2>>"$directory/log" &
        program=$!
        echo "$program"
        ;;
    end)
        end "$signal"
        echo $?
        ;;
    alive)
        # `jobs` reaps: without it a program that ended by itself would still be there to signal 0.
        jobs >"$directory/jobs"
        [ -n "$program" ] && kill -s 0 "$program" 2>/dev/null && echo yes || echo no
        ;;
    signal) kill -s "$signal" "$program" 2>/dev/null && echo sent || echo gone ;;
    esac
done

end "$last_signal"
rm -rf "$directory"
