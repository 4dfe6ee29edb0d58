"""OGM-GE against reference numbers: the published program's, and our own in float64 where it has none.

`golden/ogm_ge.npz` holds small nets, a batch, and what came out. `concat_` and `sum_` are from the published training loop: shares,
scores, ratios, coefficients, gradients of convolutions before the modulation, and the standard deviation of its noise. That loop does
not run for `gated` and `film`: logits and gradients are the published heads', scores and coefficients follow the authors' advice to set
the other modality's features to zero. `three` has the published scores, and ratios in float64."""
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from torch.testing import assert_close
from fastai.data.core import DataLoaders
from fastai.callback.core import Callback, CancelStepException
from fastai.callback.training import GradientClip
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD
from mmbalance.callback.ogm_ge import OGMGE, discrepancy_ratio, modality_scores
from mmbalance.layers.modulation import NormalNoise, modulate_grads_
from mmbalance.layers.heads import ConcatHead, FiLMHead, GatedHead, SumHead
from mmbalance.models import FusionModel

torch.set_num_threads(1)
golden = np.load(Path(__file__).parent/'golden'/'ogm_ge.npz')
cases = [k.removesuffix('/score') for k in golden.files if k.endswith('/score')]
modulated = [(c,a) for c in cases for a in (.1,.3,.8) if f'{c}/coef_{a}' in golden.files]

def read(key): return torch.tensor(golden[key])
def keys(prefix): return [k.removeprefix(prefix) for k in golden.files if k.startswith(prefix)]
def close(a, b, tol=1e-5): assert_close(torch.as_tensor(a).detach().double(), b.double(), rtol=tol, atol=tol)

class Encoder(nn.Module):
    "The small net of the reference runs, from the shapes of its weights: spectrograms, clips of frames, or series"
    def __init__(self, shapes):
        super().__init__()
        conv = {5: nn.Conv3d, 4: nn.Conv2d, 3: nn.Conv1d}
        for n in ('conv0', 'conv1', 'conv2'):
            if (s := shapes.get(f'{n}.weight')) is None: continue
            pad = dict(padding=1) if n!='conv0' else {}
            setattr(self, n, conv[len(s)](s[1], s[0], s[2:], bias=f'{n}.bias' in shapes, stride=2 if n=='conv1' and len(s)==4 else 1, **pad))
            if f'bn{n[-1]}.weight' in shapes: setattr(self, f'bn{n[-1]}', nn.BatchNorm2d(s[0]))
        self.fc = nn.Linear(*reversed(shapes['fc.weight']))

    def forward(self, x):
        n_frames = 1
        if hasattr(self, 'conv0'):
            x = self.conv0(x).transpose(1, 2)
            n_frames,x = x.shape[1],x.flatten(0, 1)
        x = self.conv1(x)
        x = self.bn2(self.conv2(self.bn1(x).relu())).relu() if hasattr(self, 'conv2') else x.relu()
        return self.fc(x.flatten(2).mean(2).unflatten(0, (-1, n_frames)).mean(1))

heads = {'concat': (ConcatHead, {'fc': 'fc_out'}), 'three': (ConcatHead, {'fc': 'fc_out'}), 'sum': (SumHead, {'fcs.audio': 'fc_x', 'fcs.visual': 'fc_y'}),
    'gated': (GatedHead, {'fcs.audio': 'fc_x', 'fcs.visual': 'fc_y', 'fc_out': 'fc_out'}), 'film': (FiLMHead, {'film': 'fc', 'fc_out': 'fc_out'})}

def batch(case):
    "One batch per modality in their order, and the target"
    group = case if f'{case}/in/y' in golden.files else case.split('_')[0]
    xs = {m: read(f'{group}/in/{m}') for m in keys(f'{group}/in/')}
    y = xs.pop('y')
    return (xs if len(xs)>1 else dict(audio=xs['audio'], visual=xs['audio'])), y

def model_of(case):
    ms = list(batch(case)[0])
    encs = {m: Encoder({k: read(f'{case}/w/{m}.{k}').shape for k in keys(f'{case}/w/{m}.')}) for m in ms}
    for m,enc in encs.items(): enc.load_state_dict({k: read(f'{case}/w/{m}.{k}') for k in keys(f'{case}/w/{m}.')}, strict=False)
    cls,names = heads[case.split('_')[0]]
    kwargs = dict(n_hidden=8) if cls is GatedHead else {}
    head = cls({m: enc.fc.out_features for m,enc in encs.items()}, 6, **kwargs)
    head.load_state_dict({f'{ours}.{o}': read(f'{case}/w/head.{theirs}.{o}') for ours,theirs in names.items() for o in ('weight','bias')})
    return FusionModel(encs, head)

class Look(Callback):
    "Keep the gradients that would be clipped next"
    order = GradientClip.order
    def before_step(self):
        self.grads = {k: p.grad.clone() for k,p in self.model.named_parameters()}
        raise CancelStepException

def gradients(case, cbs=None):
    "Gradients of one batch, by name, after the callbacks' `before_step`"
    (xs,y),model = batch(case),model_of(case)
    dls = DataLoaders.from_dsets(*[list(zip(*xs.values(), y))]*2, bs=len(y), shuffle=False, n_inp=len(xs), num_workers=0)
    dls.train.shuffle = False
    learn = Learner(dls, model, CrossEntropyLossFlat(), opt_func=SGD, cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=(look := Look()))
    return look.grads

def stored(case):
    "Stored gradients under our names"
    names = {theirs: ours for ours,theirs in heads[case.split('_')[0]][1].items()}
    for k in keys(f'{case}/grad/'):
        part,rest = k.split('.', 1)
        layer = rest.removesuffix('.weight')
        yield (f'head.{names[layer]}.weight' if part=='head' else f'encoders.{k}'), read(f'{case}/grad/{k}')

@pytest.mark.parametrize('case', cases)
def test_logits_and_scores(case):
    (xs,y),model = batch(case),model_of(case)
    feats = {m: enc(x) for (m,enc),x in zip(model.encoders.items(), xs.values())}
    us = model.head.unimodal_logits(feats)
    for m in us: close(us[m], read(f'{case}/logits/{m}'))
    close(model.head(feats), read(f'{case}/logits/joint'))
    scores = modality_scores(us, y)
    close(torch.stack(list(scores.values())), read(f'{case}/score'))
    close(torch.stack([discrepancy_ratio(scores, m) for m in scores]), read(f'{case}/ratio'))

@pytest.mark.parametrize('case', cases)
def test_gradients_without_modulation(case):
    got = gradients(case)
    for k,g in stored(case): close(got[k], g)

@pytest.mark.parametrize('case,alpha', modulated)
def test_modulated_gradients(case, alpha):
    ms = list(batch(case)[0])
    cb = OGMGE(alpha=alpha, enhance=False)
    got,plain = gradients(case, cb),gradients(case)
    coefs = read(f'{case}/coef_{alpha}')
    close([cb.coefs[m][0] for m in ms], coefs); close([cb.ratios[m][0] for m in ms], read(f'{case}/ratio'))
    for k,g in stored(case): close(got[k], g*(coefs[ms.index(k.split('.')[1])] if 'conv' in k else 1))
    for k in got:
        if 'conv' not in k or 'bias' in k: assert torch.equal(got[k], plain[k]), k

def test_equal_modalities_are_left_alone():
    "The published program slows audio here; the published rule slows nobody"
    cb = OGMGE(alpha=.8, enhance=False)
    got = gradients('concat_equal', cb)
    assert cb.coefs=={'audio': [1.], 'visual': [1.]}
    for k,g in stored('concat_equal'): close(got[k], g)

def test_three_modalities():
    cb = OGMGE(alpha=.3, enhance=False)
    gradients('three', cb)
    want = torch.where(read('three/ratio')>1, 1-torch.tanh(.3*read('three/ratio')), 1.)
    close([cb.coefs[m][0] for m in ('audio','visual','text')], want)

@pytest.mark.parametrize('case', [c for c in cases if keys(f'{c}/ge_std/')])
def test_spread_of_the_noise(case):
    torch.manual_seed(0)
    for k,g in stored(case):
        if not (std := k.removeprefix('encoders.')) in keys(f'{case}/ge_std/'): continue
        ps = [nn.Parameter(torch.zeros_like(g)) for _ in range(500)]
        for p in ps: p.grad = g.clone()
        modulate_grads_(ps, torch.tensor(.3), NormalNoise())
        noise,sigma = torch.stack([p.grad-.3*g for p in ps]).double(),read(f'{case}/ge_std/{std}')
        assert abs(noise.mean())<5*sigma/noise.numel()**.5, k
        assert abs(noise.std()/sigma-1)<5/(2*noise.numel())**.5, k
