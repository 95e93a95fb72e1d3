#!/bin/sh
# The judgement of docs/results/adversarial.md, after the sweeps of coco.toml (distillation/ and adversarial/) and
# oracle.toml. What is done is kept: run it again after a stop.
set -e
parents=sweeps/coco refined=sweeps/coco-refined
judge() { # name, options…: skips what is judged already
  out=sweeps/judged/$1; shift
  [ -f $out/evaluation.json ] || edgetext eval "$@" -o $out
}
captions="--corpus data/coco-train.txt --test-corpus data/coco-test.txt --samples 2000 --seeds 2"
sweep="--temperature 0.7 --temperature 0.8 --temperature 0.9 --temperature 1 --temperature 1.1"
of() { for seed in 0 1 2; do printf '%s ' "$1-seed$seed$2"; done; }

# without a teacher, distilled, refined (the weights of the stage, whatever the verdict was)
judge weights $(of $parents/no-teacher) $(of $parents/ensemble) $(of $refined/resampled /refined) $captions $sweep
# the refined students against their parents again, on many more texts: who dominates whom
judge sweep $(of $parents/ensemble) $(of $refined/resampled /refined) --corpus data/coco-train.txt \
  --test-corpus data/coco-test.txt --samples 5000 --scored 100 --seeds 3 --documents 0 \
  --temperature 0.8 --temperature 0.9 --temperature 1 --temperature 1.1

# the int8 bundles of the students that were accepted, in sets as large as those of the published tables
judge int8 $(of $refined/resampled /student-int8.etx) --corpus data/coco-train.txt --test-corpus data/coco-test.txt \
  --samples 10000 --scored 1000 --seeds 1 --temperature 1

# the distilled parent, and the same with its discriminator on the device
for seed in 0 1 2; do
  run=sweeps/judged/parent-seed$seed
  [ -d $run ] || cp -r $parents/ensemble-seed$seed $run
  edgetext discriminator $run --length 24 --steps 1100 --rate 1.5e-3 --seed $seed --resume
  [ -f $run/resampling.etx ] || edgetext export $run --int8 --discriminator -o $run/resampling.etx
done
judge device $(of sweeps/judged/parent /resampling.etx) --best-of 8 --choose-by resample \
  --corpus data/coco-train.txt --test-corpus data/coco-test.txt --samples 1000 --seeds 1 $sweep --documents 0

# a student of the other kind
judge transformer $(of $parents/small-transformer-no-teacher) $(of $parents/small-transformer-ensemble) \
  $(of $refined/transformer-resampled) $captions $sweep --documents 0
