"""What shards cost beside plain files on a warm local disk: `python benchmarks/shards.py`

Reading: pairs of AV digits are made into batches in one process, without a model; time for 1,000 pairs.
Training: an epoch with two small convolutional encoders, batches made ahead by two workers, on one thread for the model.
Files and shards take turns; medians and quartiles. Writes the table it prints to benchmarks/shards.md."""
import argparse, os, tempfile, time
from importlib import import_module
from common import *
from mmbalance.all import *
import mmbalance

def block(root):
    return MultimodalDataBlock(audio=MelSpecBlock(sr=8000, length=.5, n_mels=48), image=GreyImageBlock(noise=1.), y=CategoryBlock,
        get_x=[ColReader('audio', pref=root), ColReader('image', pref=root)], splitter=ColSplitter())

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def read(dls):
    "Make all training batches, without what is done to whole batches"
    dl = dls.train.new(num_workers=0, drop_last=False, after_batch=Pipeline([]))
    return lambda: [None for _ in dl]

def by_turns(fs, reps):
    "Seconds of each function, `reps` times by turns, after one turn that does not count"
    for f in fs.values(): f()
    res = {k: [] for k in fs}
    for i in range(reps):
        for k,f in list(fs.items())[::1-2*(i%2)]: res[k].append(seconds(f))
    return {k: np.array(v) for k,v in res.items()}

def row(name, ts, scale, digits):
    base = np.median(ts['files'])
    return [name] + [f'{np.median(t)*scale:.{digits}f} ({np.quantile(t, .25)*scale:.{digits}f} to {np.quantile(t, .75)*scale:.{digits}f})' for t in ts.values()] + [f'{np.median(ts["shards"])/base:.2f}', f'{np.median(ts["shards"]/ts["files"]):.2f}']

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--reps', type=int, default=9)
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--widths', type=int, nargs='+', default=[32,64,128,256])
    args = p.parse_args()
    torch.set_num_threads(1)
    root,df = synth_digits()
    with tempfile.TemporaryDirectory() as tmp:
        shards = block(root).to_shards(df, f'{tmp}/shards', max_count=500)
        both = {}
        for k in 'files','shards':
            set_seed(0)
            both[k] = block(root).dataloaders(df, bs=64, num_workers=args.workers) if k=='files' else block(root).shard_dataloaders(shards, bs=64, num_workers=args.workers)
        n = len(both['files'].train_ds)
        reading = by_turns({k: read(o) for k,o in both.items()}, args.reps)
        learners = {k: fusion_learner(o, {m: ConvEncoder(1, args.widths) for m in ('audio','image')}, metrics=accuracy) for k,o in both.items()}
        def epoch(learn):
            with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        training = by_turns({k: partial(epoch, o) for k,o in learners.items()}, args.reps)
    text = f'AV digits (embedded): {n} training pairs, {len(df)-n} for validation; batch 64; {platform.machine()}, {os.cpu_count()} cores, one thread for the model; torch {torch.__version__}, webdataset {import_module("webdataset").__version__}, ' \
        f'mmbalance {mmbalance.__version__}. Median of {args.reps} turns, quartiles in brackets.\n\n' \
        + table([row('1,000 pairs made into batches, one process, ms', reading, 1e6/n, 0), row(f'epoch of training and validation, {args.workers} workers, s', training, 1, 2)], ['', 'files', 'shards', 'ratio of medians', 'median of ratios']) + '\n'
    (here/'shards.md').write_text(text)
    print(text)
