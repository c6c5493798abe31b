#!/bin/sh
# The whole system on a small generated clip set: make demo.
set -eu
DEMO=${DEMO:-demo}
balletal doctor
balletal synth --videos 12 --seconds 16 --out "$DEMO/clips" --seed 0
balletal pipeline workflows/configs/demo.yaml \
  --set out="$DEMO/run" --set annotations="$DEMO/clips/annotations.json" --set features.videos="$DEMO/clips"
echo
echo "Report:   $DEMO/run/report.html"
echo "Serve it: .venv/bin/balletal serve --bundle $DEMO/run/runs/cnn-localize/bundle --port 8000"
