#!/bin/sh
# Run a labelling job in the repository's root, look whether its output needs a person, and tell its
# scheduler only what that can act on.
#
#   deploy/nightly.sh python jobs/label.py --input ... --output ... --model ...
#
# 0 for done, and for another run at work on the output (4). 5 for done, and a person should look:
# what `report.py --check` has found is the last that is written. 1, failed, may be repeated at
# will; 2, wrong usage, must be mended first.
cd "$(dirname "$0")/.." || exit 2
"$@"
code=$?
case $code in
0 | 3) ;; # done: the check says what is wrong with it, if something is
4)
    echo "nightly.sh: another run holds the output and labels what is there: nothing to do" >&2
    exit 0
    ;;
*) exit $code ;;
esac
output=
before=
for word; do
    [ "$before" = --output ] && output=$word
    before=$word
done
exec "$1" jobs/report.py --output "$output" --check
