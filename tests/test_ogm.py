"OGM-GE beside the rest of fastai: accumulation, mixed precision, clipping, freezing, lr_find, MixUp, other optimisers, interrupted fits"
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
import pandas as pd, pickle, pytest, torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixHandler
from fastai.callback.progress import CSVLogger
from fastai.callback import schedule  # lr_find
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import Adam, Lamb, Lookahead, OptimWrapper, RMSProp, SGD, ranger
from fastai.torch_core import set_seed
from fastcore.foundation import L
from mmbalance.callback.core import UnimodalAccuracy
from mmbalance.callback.ogm_ge import OGM, OGMGE, check_target, discrepancy_ratio, modality_scores, modulation_coef
from mmbalance.callback.references import ModalityDropout, UniformMultiLoss
from mmbalance.layers.heads import ConcatHead
from mmbalance.layers.modulation import NormalNoise, PartialStep, PoolNoise, modulate_grads_
from mmbalance.layers.scores import Ablation, AuxHeads
from mmbalance.models import FusionModel

torch.set_num_threads(1)
names = ['audio','image']

class Pixels(nn.Sequential):
    "A convolution, then features"
    def __init__(self): super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8))

def items(n=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = F.one_hot(y, 16).float().view(n, 1, 4, 4)
    return list(zip(4*x+torch.randn(x.shape, generator=g), x+torch.randn(x.shape, generator=g), y))

def learner(cbs=None, bs=16, seed=0, opt_func=SGD, data=None, tmp=None, **kwargs):
    set_seed(seed)
    data = data or items()
    dls = DataLoaders(*[DataLoader(data, bs=bs, shuffle=False, num_workers=0, n_inp=2) for _ in range(2)])
    for dl in dls.loaders: dl.n_inp = 2
    model = FusionModel({m: Pixels() for m in names}, ConcatHead({m: 8 for m in names}, 3))
    return Learner(dls, model, CrossEntropyLossFlat(), opt_func=opt_func, cbs=cbs, path=tmp, **kwargs)

def fit(learn, n=1, lr=.1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr, **kwargs)
    return learn

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

class Look(Callback):
    "The gradients before the step"
    order = 30
    def before_fit(self): self.grads = []
    def before_step(self): self.grads.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()]))

# ---- accumulation
@pytest.mark.parametrize('act', ['gradient','update'])
def test_accumulated_batches_are_one_large_batch(act):
    "Scores are summed over the batches of the step, and the gradient is modulated once"
    small = fit(learner([OGM(act=act), GradientAccumulation(64), look := Look()], bs=16))
    large = fit(learner([OGM(act=act), big := Look()], bs=64))
    assert len(look.grads)==1
    assert_close(look.grads[0], big.grads[0], rtol=1e-4, atol=1e-7); assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)
    assert_close(torch.tensor([small.ogm.coefs[m] for m in names]), torch.tensor([large.ogm.coefs[m] for m in names]))

def test_accumulation_may_run_over_the_end_of_an_epoch():
    "96 of 64+64 samples: the first step falls into the second epoch"
    learn = fit(learner([cb := OGM(), GradientAccumulation(96)], bs=16), 3)
    assert len(cb.ratios['audio'])==2
    learn = learner([OGM(columns=('score',)), GradientAccumulation(128)], bs=64)
    fit(learn, 2)
    s = learn.ogm.record['score']['audio']
    once = fit(learner([OGM()], bs=64), 1, lr=0.).ogm.record['score']['audio']
    assert len(s)==1 and abs(s[0]-2*once[0])<1e-4
    assert learn.recorder.values[0][-2] is None  # no step in the first epoch

# ---- mixed precision and clipping
class FakeScaler:
    "Scales by 1024 and unscales, as the scaler of a GPU does; the first `overflows` steps overflow"
    def __init__(self, overflows=0): self.left = overflows
    def scale(self, loss): return loss*1024
    def step(self, opt):
        for g in opt.param_groups:
            for p in g['params']: p.grad.div_(1024)
        if self.left: self.left -= 1
        else: opt.step()
    def update(self): pass
    def get_scale(self): return 1024.

class FakeFP16(MixedPrecision):
    "The callback of `to_fp16`, with a scaler that works without a GPU"
    overflows = 0
    def before_fit(self):
        self.learn.scaler,self.scales = FakeScaler(self.overflows),L()
        self.autocast = torch.autocast('cpu', enabled=False)

def test_gradients_are_unscaled_first():
    plain,scaled = fit(learner(OGM())),fit(learner([OGM(), FakeFP16()]))
    assert_close(weights(plain), weights(scaled), rtol=1e-5, atol=1e-7)

@pytest.mark.parametrize('act', ['gradient','update'])
def test_a_step_that_overflows_is_forgotten(act):
    fp16 = FakeFP16(); fp16.overflows = 1
    learn = fit(learner([cb := OGM(act=act), fp16], data=items()[:32]))
    assert len(cb.ratios['audio'])==1
    fit(learner([own := OGM(act=act)], data=items()[16:32]))
    assert abs(cb.ratios['audio'][0]-own.ratios['audio'][0])<1e-5 and cb.partly is None

def test_bf16():
    learn = learner([OGMGE(), MixedPrecision('bf16')])
    learn.mixed_precision.before_fit = lambda: (setattr(learn.mixed_precision, 'autocast', torch.autocast('cpu', dtype=torch.bfloat16)),
        setattr(learn, 'scaler', torch.amp.GradScaler('cpu', enabled=False)), setattr(learn.mixed_precision, 'scales', L()))
    fit(learn)
    assert torch.isfinite(weights(learn)).all() and len(learn.ogmge.ratios['audio'])==4

def test_modulated_before_clipping():
    learn = fit(learner([OGMGE(), GradientClip(.01), look := Look()]))
    assert all(g.norm()<=.0101 for g in look.grads)

# ---- optimisers
opts = dict(SGD=SGD, momentum=partial(SGD, mom=.9), Adam=Adam, AdamW=partial(Adam, wd=.1), ranger=ranger, RMSProp=RMSProp, Lamb=Lamb, OptimWrapper=partial(OptimWrapper, opt=torch.optim.AdamW))

class OneMore(Callback):
    "Remember the movement of the step after `n`"
    order = 60
    def __init__(self, n): self.n,self.i = n,-1
    def before_step(self): self.i += 1; self.old = {k: p.detach().clone() for k,p in self.model.named_parameters()}
    def after_step(self):
        if self.i==self.n: self.moved = {k: p.detach()-self.old[k] for k,p in self.model.named_parameters()}

@pytest.mark.parametrize('name', opts)
def test_the_update_moves_by_the_coefficient(name):
    "The third of four steps, from the same weights and the same state of the optimiser: OGM begins there"
    def third(cbs): return fit(learner([*cbs, one := OneMore(2)], opt_func=opts[name]), 1, lr=1e-3) and one.moved
    cb = OGM(act='update', start=.5)  # steps 2 and 3 of 4
    full,part = third([]),third([cb])
    assert min(cb.coefs[m][2] for m in names)<.9
    for k in full:
        m = k.split('.')[1]
        coef = cb.coefs[m][2] if k.startswith('encoders') else 1.
        assert_close(part[k], coef*full[k], rtol=.02, atol=2e-7)

def test_the_last_step_of_lookahead():
    "Every step is averaged: the inner movement is shortened, and half of it is kept"
    def first(cbs): return fit(learner([*cbs, one := OneMore(0)], opt_func=lambda ps,lr: Lookahead(SGD(ps, lr), k=1)), 1, lr=.1) and one.moved
    cb = OGM(act='update')
    full,part = first([]),first([cb])
    for m in names: assert_close(part[f'encoders.{m}.0.weight'], cb.coefs[m][0]*full[f'encoders.{m}.0.weight'], rtol=1e-3, atol=1e-7)

def test_lookahead_averages_from_the_shortened_step():
    "Two steps of 1, each shortened to .2, then half of the way from the slow weights: .5*(.2+.2); both kinds of weights are there"
    p = nn.Parameter(torch.zeros(3))
    opt = Lookahead(SGD([p], lr=1.), k=2)
    for _ in range(2):
        p.grad = -torch.ones(3)
        partly = PartialStep(opt, [([p], torch.tensor(.2))])
        opt.step(); partly.finish()
    assert_close(p.data, torch.full((3,), .2)); assert_close(opt.slow_weights[0][0].data, torch.full((3,), .2))

def test_adam_nearly_cancels_a_gradient_and_not_an_update():
    def first(cbs): return fit(learner([*cbs, one := OneMore(0)], opt_func=Adam), 1, lr=1e-3) and one.moved
    full = first([])
    lead = {}
    for act in 'gradient','update':
        part = first([cb := OGM(act=act)])
        m = min(names, key=lambda m: cb.coefs[m][0])
        lead[act] = (part[f'encoders.{m}.0.weight'].norm()/full[f'encoders.{m}.0.weight'].norm()).item()
    assert lead['gradient']>.9 and abs(lead['update']-cb.coefs[m][0])<.01

# ---- the rest of fastai
def test_frozen_encoders_are_left_out():
    learn = learner(OGMGE(), splitter=lambda m: [list(m.encoders.parameters()), list(m.head.parameters())])
    learn.freeze()
    before = deepcopy(learn.model.encoders.state_dict())
    fit(learn)
    for k,v in learn.model.encoders.state_dict().items(): assert torch.equal(v, before[k])
    learn.unfreeze()
    fit(learn, lr=slice(1e-3, 1e-1))
    assert not torch.equal(learn.model.encoders['audio'][0].weight, before['audio.0.weight'])

@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')  # what fastai saves
@pytest.mark.parametrize('scores', [None, AuxHeads()])
def test_lr_find_leaves_no_trace(scores, tmp_path):
    learn = fit(learner(OGMGE(scores=scores), opt_func=Adam, tmp=tmp_path))
    before,metrics,record = weights(learn),list(learn.metrics),deepcopy(learn.ogmge.record)
    with learn.no_bar(): learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)
    assert torch.equal(weights(learn), before) and list(learn.metrics)==metrics and learn.ogmge.record==record
    assert not learn.model.head._forward_pre_hooks

class MixPairs(MixHandler):
    "MixUp for pairs, as far as it matters here: it keeps two targets"
    def before_batch(self):
        self.lam,i = torch.full((len(self.y),), .7),torch.arange(len(self.y)).flip(0)
        self.yb1 = (self.y[i],)
        self.learn.xb = tuple(.7*x+.3*x[i] for x in self.xb)

def test_mixed_targets():
    learn = learner([cb := OGM(columns=('score',)), MixPairs(), UnimodalAccuracy()], bs=64)
    fit(learn)
    *xs,y = next(iter(learner(bs=64).dls.train))
    model = learner(bs=64).model
    us = model.head.unimodal_logits({m: enc(.7*x+.3*x.flip(0)) for (m,enc),x in zip(model.encoders.items(), xs)})
    for m,u in us.items():
        p = u.softmax(1)
        want = .7*p.gather(1, y[:,None]).sum() + .3*p.gather(1, y.flip(0)[:,None]).sum()
        assert_close(torch.tensor(cb.record['score'][m][0]), want.detach(), rtol=1e-5, atol=1e-5)

@pytest.mark.parametrize('y', [torch.rand(16), torch.rand(16, 3).round()+.5, torch.rand(16, 2)])
def test_other_targets_are_refused(y):
    with pytest.raises(ValueError, match='one class index per sample'): check_target(y, 3)

@pytest.mark.parametrize('kwargs', [{}, dict(act='update'), dict(scores='ablation')])
def test_permuted_modalities_have_permuted_coefficients(kwargs):
    "The same model with its encoders, its inputs and the columns of its head in the other order"
    learn,cb,other = learner(OGM(**kwargs)),OGM(**kwargs),learner(data=[(b, a, y) for a,b,y in items()])
    model = deepcopy(learn.model)
    other.model = FusionModel({m: model.encoders[m] for m in names[::-1]}, ConcatHead({m: 8 for m in names[::-1]}, 3))
    with torch.no_grad():
        other.model.head.fc.weight.copy_(model.head.fc.weight.roll(8, 1))
        other.model.head.fc.bias.copy_(model.head.fc.bias)
    fit(learn); fit(other, cbs=cb)
    assert list(cb.coefs)==names[::-1] and min(cb.coefs['audio']+cb.coefs['image'])<.9
    for m in names:
        assert_close(torch.tensor(cb.coefs[m]), torch.tensor(learn.ogm.coefs[m]), rtol=1e-4, atol=1e-5)
        assert_close(other.model.encoders[m][0].weight, learn.model.encoders[m][0].weight, rtol=1e-4, atol=1e-6)

def test_degree_zero_is_plain_training_where_a_score_is_zero():
    "The ratio is infinite then, and 0 times infinity is no number"
    def sure(learn):
        with torch.no_grad(): learn.model.head.fc.weight[:, 8:] *= 1e4
        return learn
    plain,cb = fit(sure(learner(bs=1, data=items()[:8])), lr=1e-6),OGM(alpha=0)
    assert torch.equal(weights(fit(sure(learner(cb, bs=1, data=items()[:8])), lr=1e-6)), weights(plain))
    assert float('inf') in cb.ratios['audio'] and set(cb.coefs['audio'])=={1.}

# ---- columns
def test_one_column(): assert list(fit(learner(OGM(columns='ratio'))).recorder.metric_names[3:-1])==['audio_ratio','image_ratio']

def test_columns_of_the_recorder(tmp_path):
    learn = learner([OGMGE(), CSVLogger(tmp_path/'log.csv')], metrics=accuracy)
    fit(learn, 2)
    want = [f'{m}_{k}' for m in names for k in ('ratio','coef')]
    assert list(learn.recorder.metric_names[4:-1])==want  # what wandb and tensorboard read, too
    for k,v in zip(want, learn.recorder.values[-1][3:]):
        m,k = k.split('_')
        assert abs(v-sum(learn.recorder.balance[k][m][4:])/4)<1e-6
    log = pd.read_csv(tmp_path/'log.csv')
    assert list(log.columns[4:-1])==want and log.notna().all(axis=None)

def test_validation_changes_nothing():
    learn = fit(learner(OGMGE(), metrics=accuracy))
    record = deepcopy(learn.ogmge.record)
    with learn.no_bar():
        assert len(learn.validate())==2
        learn.get_preds()
    assert learn.ogmge.record==record and len(record['ratio']['audio'])==4 and len(learn.metrics)==1

def test_an_interrupted_fit_is_cleaned_up():
    class Interrupt(Callback):
        order = 70
        def after_step(self): raise KeyboardInterrupt
    for opt in SGD,ranger:
        learn = learner(OGMGE(act='update'), opt_func=opt, metrics=accuracy)
        with learn.no_bar(), learn.no_logging(), pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Interrupt())
        fit(learn)
        assert not learn.model.head._forward_pre_hooks and len(learn.metrics)==1
        assert 'step' not in vars(getattr(learn.opt, 'opt', learn.opt))

def test_a_cancelled_fit_keeps_its_record_and_its_coefficient():
    class Cancel(Callback):
        order = 0  # before OGM's own `after_step`
        def after_step(self): raise CancelFitException
    full,part = fit(learner(), cbs=Cancel()),fit(learner(cb := OGM(act='update')), cbs=Cancel())
    start = learner()
    for m in names:
        w = f'encoders.{m}.0.weight'
        a,b,c = (o.model.get_parameter(w).detach() for o in (start, full, part))
        assert_close(c-a, cb.coefs[m][0]*(b-a), rtol=1e-3, atol=1e-7)

@pytest.mark.parametrize('act', ['gradient','update'])
@pytest.mark.parametrize('scores', ['shares','ablation','aux',Ablation('inputs')])
def test_the_model_can_be_copied_between_batches(act, scores):
    class Copy(Callback):
        order = 80
        def before_batch(self): self.copied = deepcopy(self.learn.model)
        def after_batch(self): self.copied = deepcopy(self.learn.model)
    fit(learner([OGMGE(act=act, scores=scores), Copy()]))

def test_learners_do_not_meet():
    a,b = learner(OGM()),learner(OGM(alpha=0))
    fit(a); fit(b); fit(a)
    c = learner(OGM()); fit(c); fit(c)
    assert torch.equal(weights(a), weights(c)) and torch.equal(weights(b), weights(fit(learner())))

def test_pickled():
    learn = fit(learner(cb := OGMGE(noise=PoolNoise, scores=AuxHeads())))
    learn.remove_cb(cb)
    assert pickle.loads(pickle.dumps(cb)).ratios==cb.ratios

def test_methods_together():
    learn = fit(learner([OGMGE(noise=PoolNoise), UniformMultiLoss(), ModalityDropout(), UnimodalAccuracy(), GradientClip(), GradientAccumulation(32)]), 2)
    assert torch.isfinite(weights(learn)).all() and not learn.model.head._forward_pre_hooks

def test_no_value_is_read_in_the_step():
    "Nothing waits for the device: tensors without values pass through all that happens in a step"
    from torch._subclasses import FakeTensorMode
    with FakeTensorMode():
        scores = modality_scores({m: torch.randn(8, 3) for m in names}, torch.zeros(8, dtype=torch.long))
        coefs = {m: modulation_coef(discrepancy_ratio(scores, m), .8) for m in names}
        p = nn.Parameter(torch.randn(4, 4)); p.grad = torch.randn(4, 4)
        for noise in NormalNoise(), PoolNoise(): modulate_grads_([p], coefs['audio'], noise)
        PartialStep(SimpleNamespace(), [([p], coefs['audio'])]).finish()
        with pytest.raises(Exception): coefs['audio'].item()  # this is what would be found
