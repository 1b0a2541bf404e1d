#!/bin/sh
# A curated corpus: domain and quality of every document in one pass, and those that are good enough.
#
#     curation.sh LABELLED CORPUS WORK [OPTIONS OF fastbert train]
#
# LABELLED has the columns text, domain (strings) and quality (numbers from 0 to 5), as people or a
# large model have rated some documents. CORPUS has the column text, and whatever else. Both are
# Parquet, Arrow, JSON Lines or CSV. What is made lies below WORK, a local folder: model/, labels/ and
# kept/, with a file for each of the corpus that has good documents: their own columns and the quality.
# Run again, only new documents are labelled; a model that was not calibrated, or is not to be trusted,
# is made anew. The cut-off 3, which stands in three places, and the domain 'adult' are examples: put
# your own there. It ends with 3 where `fastbert label` or `filter` does: the rest is done.
set -eu
labelled=$1
corpus=$2
work=$3
shift 3

if [ ! -e "$work/calibrated" ]; then
    fastbert train --train "$labelled" --label-column domain --label-column quality \
        --task quality=score --output "$work/model" "$@"
    # At most 1 % of the documents get another domain than at full depth, and at most 1 % fall on
    # the other side of the filter, with 95 % confidence each.
    fastbert calibrate --model "$work/model" --corpus "$corpus" --max-disagreement 0.01 \
        --cutoff quality=3
    touch "$work/calibrated"
fi
code=0
fastbert label --input "$corpus" --output "$work/labels" --model "$work/model" --no-carry \
    --audit-rate 0.01 || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
fastbert filter --input "$corpus" --output "$work/labels" --kept "$work/kept" \
    --where "quality_value >= 3 and domain_label <> 'adult'" --carry quality_value || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"
fastbert report --output "$work/labels" --sql "
    select domain_label as domain, count(*) as documents,
           round(100 * avg((quality_value >= 3)::int), 1) as percent_good
    from rows where error is null group by domain order by documents desc"
exit "$code"
