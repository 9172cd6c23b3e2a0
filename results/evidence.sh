#!/bin/sh
# Every run behind results/*.json and the README's figures, what says most first. Finished runs are skipped and begun
# ones go on, so that the same command extends what is there. C names the command where it is another than this clone's.
# Core hours: on one core of a two-core virtual machine, with AVX-512. SEEDS are those of the map.
set -e
C=${C:-.venv/bin/contextual-rnn}
SEEDS=${SEEDS:-0 1 2 3 4}
STATES=state=zero,free,context
TEN=seed=0,1,2,3,4,5,6,7,8,9
short="$C sweep retrieval --epochs 30 --json"

# What the README promises first: the authors' start after 40 epochs, a sound one after 15 and 30. 0.4 h
$C sweep retrieval --json --out runs/authors-40 --leaves h+a --start wenke2019 --epochs 40 --grid seed=0,1,2 $STATES
$C sweep retrieval --json --out runs/retrieval-sound-start --epochs 15 --grid seed=0,1,2,3,4 state=zero
$C sweep retrieval --json --out runs/retrieval-sound-start-ba2016 --timing ba2016 --epochs 30 --grid seed=0,1,2,3,4 \
    state=context

# The cell of the paper (50 units, 4 pairs), h(0) alone, both starts: what the next two are compared with. 0.6 h
$short --out runs/map --grid $TEN start=wenke2019,sound $STATES

# Each ingredient of the authors' start switched alone, under the zero state in both starts, and under the others in the
# authors'. 0.75 h, 0.6 h, 0.9 h
switched=switched=embedding,weights,bias,norm,readout,letters
$short --out runs/ingredients --grid $TEN $switched start=wenke2019 state=zero
$short --out runs/ingredients --grid $TEN $switched start=sound state=zero
$short --out runs/ingredients --grid $TEN $switched start=wenke2019 state=context,free

# Controls: as many parameters as the contextual state has (5,050) in the readout, the context at every step, the
# context of another sequence, layer norm and inner step without A. 1.6 h
both=start=wenke2019,sound
$short --out runs/controls --readout-units 158 --grid $TEN $both state=zero
$short --out runs/controls --context-input --grid $TEN $both state=zero
$short --out runs/controls --shuffled-context --grid $TEN $both state=context
$short --out runs/controls --rate 0 --grid $TEN $both state=zero,context

# The map, cheap cells first, a seed after the other: 36 cells of three states, 1.3 h a seed.
for seed in $SEEDS; do
    all="timing=wenke2019,ba2016 $both $STATES"
    $short --out runs/map --grid seed=$seed units=20,50 pairs=2,4 $all
    $short --out runs/map --grid seed=$seed units=20,50 pairs=8 $all
    $short --out runs/map --grid seed=$seed units=100 pairs=2,4,8 $all
done

# Table 1 of Ba et al. with fast weights, both timings, a sound start. 2.4 h
$C sweep retrieval --json --out runs/table1 --grid seed=0,1,2,3,4 units=20,50,100 timing=ba2016,wenke2019 state=zero

# Paper scale: 200 epochs, (h, A), the authors' start, their timing; then the other choices. 0.25 h a seed each, h 0.15.
paper="$C sweep retrieval --json --grid $TEN state=context,free,zero"
$paper --leaves h+a --start wenke2019 --out runs/retrieval-authors-start
$C sweep decay --json --grid $TEN state=normal,zero,context --out runs/decay-paper
$C sweep decay --json --out runs/decay-calibration --grid $TEN kl_weight=0,1e-05,0.0001,0.001
$C sweep decay --json --out runs/decay-calibration --min-scale 0.2 --grid $TEN

# Small networks whose mean state is linear in the context, several of which make a band: the period in the state alone,
# and at every step too. 0.1 h
small="$C sweep decay --json --out runs/decay-ensembles --units 32 --learning-rate 0.001 --context-units 0"
$small --grid $TEN state=context,normal,zero
$small --period-input --grid $TEN state=context,normal

$paper --leaves h --start wenke2019 --out runs/retrieval-authors-start-h
$paper --leaves h+a --out runs/retrieval-sound-start-h+a
$paper --leaves h+a --start wenke2019 --timing ba2016 --out runs/retrieval-authors-start-ba2016

# Table 1 with LSTMs. 0.5 to 0.9 h a seed
$C sweep retrieval --network lstm --json --out runs/table1 --grid $TEN units=20,50,100 state=zero

$paper --leaves h+a --timing ba2016 --out runs/retrieval-sound-start-h+a-ba2016
