#!/bin/sh
# COCO captions: a distilled student before and after resampling by its discriminator. Run again after a stop: what is
# done is kept. data/ as in docs/results/distillation/coco.toml; about half an hour on two cores.
set -e
run=runs/coco-resampled
teacher=transformer,hidden=320,layers=4,heads=4,kv_heads=4,ffn=864,context=128,tied=true,dropout=0.3
corpus="--corpus data/coco-train.txt --valid-corpus data/coco-valid.txt --test-corpus data/coco-test.txt"
common="--tokenizer word --windows document --batch-size 64 --sequence-length 64 --refine-steps 0 --no-frontier"
go_on() { [ -d "$1" ] && echo --resume || true; }

edgetext distill $corpus $common --recipe no-teacher --student "$teacher" --distill-steps 1800 --student-rate 0.0015 \
  --patience 3 --run $run-teacher $(go_on $run-teacher)
[ -d $run-cache ] || edgetext cache-targets $run-teacher --run $run-teacher --windows document -o $run-cache
edgetext distill $corpus $(echo $common | sed 's/--tokenizer word//') --cache $run-cache \
  --student lstm,embedding=48,hidden=128,layers=1,tied=true --distill-steps 900 --student-rate 0.012 \
  --run $run $(go_on $run)
edgetext discriminator $run --length 24 --steps 1100 --rate 1.5e-3 --resume
[ -f $run.etx ] || edgetext export $run --int8 --discriminator -o $run.etx
edgetext eval $run --corpus data/coco-train.txt --test-corpus image_coco/test.txt --best-of 8 --choose-by resample \
  --temperature 0.8 --temperature 0.9 --temperature 1 --temperature 1.1 --documents 0 -o $run-judged --force
