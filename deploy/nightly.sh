#!/bin/sh
# Run a job in the repository's root, and tell its scheduler only what that can act on.
#
#   deploy/nightly.sh python jobs/label.py --input ... --output ... --model ...
#
# 0 for done (0), done with bad shards or rows (3), and another run at work on the output (4).
# What remains are alarms: 1, failed, may be repeated at will; 2, wrong usage, must be mended first.
cd "$(dirname "$0")/.." || exit 2
"$@"
code=$?
case $code in
3)
    echo "nightly.sh: done, but shards could not be read or too many rows have an error" >&2
    exit 0
    ;;
4)
    echo "nightly.sh: another run holds the output and labels what is there: nothing to do" >&2
    exit 0
    ;;
esac
exit $code
