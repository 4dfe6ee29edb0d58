"What the benchmarks share: data held in memory, repeated runs, and small tables"
import argparse, platform
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import *
from fastcore.basics import noop

here = Path(__file__).parent

def gather(dl):
    "All items of a data loader, as one plain tensor per element of the batch"
    return [torch.cat([o.as_subclass(torch.Tensor) for o in os]) for os in zip(*dl)]

def in_memory(dls):
    "The items of training and validation, as `gather` gives them; what is read from files once is not read again in every epoch"
    train = dls.train.new(shuffle=False, drop_last=False)
    with train.dataset.set_split_idx(1): return [gather(train), gather(dls.valid)]  # as in validation: no random crops

def tensor_dls(parts, names, use, n_classes, bs=64):
    "DataLoaders over tensors in memory, with the modalities `use`"
    def dl(ts, shuffle):
        ts = [t for n,t in zip(names, ts) if n in use] + [ts[-1]]
        res = DataLoader(range(len(ts[-1])), bs=bs, shuffle=shuffle, create_item=noop, create_batch=lambda i: tuple(t[torch.tensor(i)] for t in ts))
        res.n_inp,res.modalities = len(use),L(use)
        return res
    dls = DataLoaders(dl(parts[0], True), dl(parts[1], False))
    dls.c = n_classes
    return dls

def pm(xs, scale=100, digits=1):
    "Mean and standard deviation over the seeds, in per cent"
    xs = np.array(xs, dtype=float)*scale
    return f'{xs.mean():.{digits}f} ± {xs.std(ddof=1):.{digits}f}' if len(xs)>1 else f'{xs[0]:.{digits}f}'

def table(rows, header):
    "A Markdown table"
    return '\n'.join('| '+' | '.join(map(str, o))+' |' for o in (header, ['---']*len(header), *rows))
