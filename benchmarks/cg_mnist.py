"""Coloured-and-gray MNIST with and without RegBN: `python benchmarks/cg_mnist.py [--path MNIST] [--net plain] [--seeds 0 1 2 3 4]`

The grey and the coloured view have an encoder each with 128 features: `plain` has two convolutions and no batch norm,
`batchnorm` four convolutions of stride 2 with batch norm. One linear layer reads both. In training the colour is the digit's, in validation and test it is any. `early`: the grey image is cleaned of the
coloured one; `late`: the grey features are cleaned of the coloured ones. Each line is printed as it is measured: accuracy
of the joint model and of each view's share of its logits, and the share of the grey features' energy that is linear in the
coloured ones, at the end of training, in the validation part. Adam, learning rate .001, batch 50, constant."""
import argparse
from collections import defaultdict
from pathlib import Path
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from fastai.data.external import URLs
from mmbalance.data.av_digits import fetch
from mmbalance.data.cg_mnist import cg_mnist
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.layers.heads import ConcatHead
from mmbalance.fusion import RegBNFusion, RegBNStages
from mmbalance.layers.regbn import RegBNPairs, set_epoch
from mmbalance.models import FusionModel

views = ('grey', 'color')
variants = {  # place, arguments of RegBN
    'none':                  (None, {}),
    'norms only':            ('norms', {}),
    'early published':       ('early', dict(normalize_input=True)),
    'early raw':             ('early', dict()),
    'early paper':           ('early', dict(normalize_input=True, constraint='weight')),
    'early consistent':      ('early', dict(normalize_input=True, consistent=True)),
    'late published':        ('late', dict(normalize_input=True)),
    'late raw':              ('late', dict()),
    'late paper':            ('late', dict(normalize_input=True, constraint='weight')),
    'late consistent':       ('late', dict(normalize_input=True, consistent=True)),
    'late low rank':         ('late', dict(normalize_input=True, rank=16)),
    'late both directions':  ('late', dict(normalize_input=True, clean=[('grey', 'color'), ('color', 'grey')])),
    'late color of grey':    ('late', dict(normalize_input=True, clean={'color': 'grey'})),
}

def plain_encoder(c_in, n=128):
    "Two convolutions with max pooling and a linear layer, without batch norm"
    def conv(i, o): return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*conv(c_in, 16), *conv(16, 32), nn.Flatten(), nn.Linear(32*7*7, n), nn.ReLU())

class NormHead(nn.Module):
    "What RegBN does to features beside the projection: a layer norm of each view"
    def __init__(self, n_feats, n_out): super().__init__(); self.head = ConcatHead(n_feats, n_out)
    def forward(self, feats): return self.head({k: F.layer_norm(v, v.shape[1:]) for k,v in feats.items()})

def make(variant, net='plain', n=128):
    "The model of a variant"
    encoder = dict(plain=plain_encoder, batchnorm=ConvEncoder)[net]
    encoders,n_feats = dict(grey=encoder(1), color=encoder(3)),dict.fromkeys(views, n)
    place,kwargs = variants[variant]
    if place=='early': return RegBNStages({m: [o] for m,o in encoders.items()}, ConcatHead(n_feats, 10), {0: RegBNPairs(dict(grey=(1,28,28), color=(3,28,28)), **kwargs)})
    head = RegBNFusion(n_feats, 10, head=ConcatHead, **kwargs) if place=='late' else NormHead(n_feats, 10) if place=='norms' else ConcatHead(n_feats, 10)
    return FusionModel(encoders, head)

def train(model, data, epochs, bs=50, lr=1e-3, device='cpu'):
    "Adam on shuffled batches"
    opt = torch.optim.Adam(model.parameters(), lr)
    xs,y = [o.to(device) for o in (data.grey, data.color)],data.labels.to(device)
    for epoch in range(epochs):
        model.train(); set_epoch(model, epoch)
        for i in torch.randperm(len(y)).to(device).split(bs):
            loss = F.cross_entropy(model(*[x[i] for x in xs]), y[i])
            opt.zero_grad(); loss.backward(); opt.step()

@torch.no_grad()
def predict(model, data, device='cpu'):
    "Joint logits, each view's share of them, and the features that the head received, in evaluation"
    res,feats,head = defaultdict(list),[],getattr(model.head, 'head', model.head)
    handle = head.register_forward_pre_hook(lambda _,args: feats.append(args[0]))
    for grey,color in zip(data.grey.split(500), data.color.split(500)):
        res['joint'].append(model.eval()(grey.to(device), color.to(device)))
        for m,o in head.unimodal_logits(feats[-1]).items(): res[m].append(o)
        for m,o in feats[-1].items(): res[m+' feats'].append(o)
    handle.remove()
    return {k: torch.cat(v).cpu() for k,v in res.items()}

def dependence(f, g):
    "Share of the centred energy of `f` that is linear in `g`"
    f,g = (o.double()-o.double().mean(0) for o in (f, g))
    U,S,_ = torch.linalg.svd(g, full_matrices=False)
    U = U[:,S>1e-6*S[0]]
    return ((U.mT@f).square().sum()/f.square().sum()).item()

def run(variant, net, parts, seed, epochs, device):
    torch.manual_seed(seed)
    model = make(variant, net).to(device)
    train(model, parts[0], epochs, device=device)
    res = dict(net=net, variant=variant, seed=seed)
    for name,part in zip(('valid', 'test'), parts[1:]):
        out = predict(model, part, device)
        res |= {f'{name} {k}': round(100*(out[k].argmax(1)==part.labels).float().mean().item(), 2) for k in ('joint', *views)}
        if name=='valid': res['dependence'] = round(dependence(out['grey feats'], out['color feats']), 3)
    return res

def summary(fn):
    "Mean ± standard deviation over the seeds, by net and variant"
    def cell(x): return f'{x.mean():.3g} ± {x.std():.2g}'
    return pd.read_csv(fn).groupby(['net', 'variant'], sort=False).agg({'seed': 'count'} | dict.fromkeys(['valid joint', 'test joint', 'test grey', 'test color', 'dependence'], cell)).rename(columns=dict(seed='seeds'))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--path', help='folder with training/ and testing/; else it is fetched'); p.add_argument('--threads', type=int, default=1)
    p.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.csv'), help='each run adds a row')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--net', choices=['plain', 'batchnorm'], default='plain'); p.add_argument('--variants', nargs='*', default=list(variants))
    p.add_argument('--seeds', type=int, nargs='*', default=range(5)); p.add_argument('--epochs', type=int, default=6)
    p.add_argument('--n_train', type=int, default=4000, help='0 is all but the validation part'); p.add_argument('--n_valid', type=int, default=2000)
    p.add_argument('--n_test', type=int, default=2000, help='0 is all')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    parts = cg_mnist(a.path or fetch('mnist_png.tgz', URLs.MNIST, 'training'), a.n_train or None, a.n_valid, a.n_test or None)
    for seed in a.seeds:
        for v in a.variants:
            row = pd.DataFrame([run(v, a.net, parts, seed, a.epochs, a.device)])
            row.to_csv(a.out, mode='a', header=not a.out.exists(), index=False)
            print(*row.iloc[0], sep='\t', flush=True)
    print(summary(a.out).to_string())

if __name__=='__main__': main()
