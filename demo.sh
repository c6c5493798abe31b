#!/bin/sh
# The whole system in one go: make demo. With DATA, a folder in AnnChor's layout, on real data: make demo DATA=../UJAnnChor
set -eu
DEMO=${DEMO:-demo}
if [ -z "${DATA:-}" ]; then
  case ${PRESET:=easy} in easy) size=320x240 ;; *) size=480x270 ;; esac
  balletal doctor
  balletal synth --preset "$PRESET" --videos "${VIDEOS:-30}" --seconds 16 --size $size --seed 0 --out "$DEMO/corpus"
  balletal annotations sheet "$DEMO/corpus/annotations.json" --videos "$DEMO/corpus/videos" --out "$DEMO/corpus/sheet.png"
  balletal pipeline workflows/configs/demo.yaml --set out="$DEMO/run" \
    --set annotations="$DEMO/corpus/annotations.json" --set features.videos="$DEMO/corpus/videos"
  exit
fi

annotations="$DATA/Annotation Files/Processed Model JSON Annotation Files/AnnChor1000-TD.json"
videos="$DATA/AnnChor1000-Original-Videos"
released="$DATA/Features/i3d_features"
if [ ! -f "$annotations" ]; then
  echo "DATA=$DATA: expected a folder in AnnChor's layout, found no $annotations" >&2
  exit 1
fi
balletal doctor
if [ -n "$(find -L "$videos" -name '*.mp4' -size +100k 2>/dev/null | head -n 1)" ]; then
  balletal pipeline workflows/configs/annchor-videos.yaml \
    --set out="$DEMO/annchor-videos" --set annotations="$annotations" --set features.videos="$videos"
else
  echo "no videos below $videos: going on with the features that were released with them"
  balletal pipeline workflows/configs/annchor-released.yaml \
    --set out="$DEMO/annchor-released" --set annotations="$annotations" --set features.released="$released"
fi
