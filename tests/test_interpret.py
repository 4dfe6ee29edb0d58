"What an interpretation says agrees with the worked example and with passes made by hand, and the learner is left as it was"
import random
from copy import deepcopy
from functools import partial
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastcore.foundation import L
from mmbalance.ablation import FeaturePass, subset_logits
from mmbalance.callback.core import UnimodalAccuracy
from mmbalance.callback.live import AblatedAccuracy, MacroF1, MeanAP
from mmbalance.diagnose import diagnose, linear_probe
from mmbalance.interpret import BalanceInterpretation
from mmbalance.metrics import mean_ap
from mmbalance.layers.heads import ConcatHead, FiLMHead, GatedHead, SumHead
from mmbalance.fusion import RegBNFusion
from mmbalance.models import FusionModel

names = 'audio','image','text'

def toy(head=ConcatHead, m=2, n=37, bs=8, drop_last=False, **kwargs):
    "Modalities of falling clarity; encoders with dropout and batch norm, whose mode matters"
    random.seed(0); torch.manual_seed(0)  # the order of training batches, and all else
    y = torch.arange(n)%4
    items = L(zip(*[F.one_hot(y, 4)*s+torch.randn(n, 4) for s in (2.,1.,.5)[:m]], y))
    encoders = {k: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(.5)) for k in names[:m]}
    dls = DataLoaders.from_dsets(items, items, bs=bs, n_inp=m, drop_last=drop_last)
    return Learner(dls, FusionModel(encoders, head({k: 6 for k in encoders}, 4)), CrossEntropyLossFlat(), **kwargs)

def test_worked_example():
    "Two samples, three classes: the shares and the logits of the specification's toy case"
    z = [torch.tensor([[1.,0],[0,1]]), torch.tensor([[.5,-.5],[1,1]])]
    y = torch.tensor([0, 2])
    model = FusionModel({m: nn.Identity() for m in names[:2]}, ConcatHead(dict(audio=2, image=2), 3))
    with torch.no_grad():
        model.head.fc.weight.copy_(torch.tensor([[2.,0,1,-1],[0,1,0,2],[1,1,1,0]]))
        model.head.fc.bias.copy_(torch.tensor([.3,-.3,0]))
    interp = BalanceInterpretation.from_learner(Learner(DataLoaders.from_dsets(*[L(zip(*z, y))]*2, bs=1, n_inp=2), model, CrossEntropyLossFlat()))
    assert torch.allclose(interp.shares['audio'], torch.tensor([[2.15,-.15,1],[.15,.85,1]]))
    assert torch.allclose(interp.shares['image'], torch.tensor([[1.15,-1.15,.5],[.15,1.85,1]]))
    assert torch.allclose(interp.logits[('audio','image')], torch.tensor([[3.3,-1.3,1.5],[.3,2.7,2]]))
    half = torch.tensor([.3,-.3,0])/2
    for m in names[:2]: assert torch.allclose(interp.logits[(m,)], interp.shares[m]+half)  # at the features: the share, with all of the bias
    assert (interp.count().right, interp.count('audio').right, interp.count(()).total)==(1, 2, 2)

@pytest.mark.parametrize('head', [ConcatHead, SumHead, GatedHead, FiLMHead, partial(RegBNFusion, head=ConcatHead)])
@pytest.mark.parametrize('m', [2, 3])
@pytest.mark.parametrize('at,by', [('features','zeros'), ('features','mean'), ('inputs','zeros'), ('inputs','mean')])
def test_subsets_are_true_passes(head, m, at, by):
    learn = toy(head, m)
    p = FeaturePass(learn, learn.dls.valid)
    res,model = subset_logits(p, at, by), learn.model.eval()
    *xs,y = [torch.stack(o) for o in zip(*learn.dls.valid.dataset)]
    def drop(x): return (x.mean(0, keepdim=True) if by=='mean' else torch.zeros_like(x[:1])).expand_as(x)
    with torch.no_grad():
        feats = {k: enc(x) for (k,enc),x in zip(model.encoders.items(), xs)}
        fuse,feats = (model.head.head, model.head.cleaned(feats)) if hasattr(model.head, 'cleaned') else (model.head, feats)
        for S in res:
            if at=='inputs': want = model(*[x if k in S else drop(x) for k,x in zip(names, xs)])
            else: want = fuse({k: x if k in S else drop(x) for k,x in feats.items()})
            assert torch.allclose(res[S], want, atol=1e-5)
    assert len(res)==2**m and torch.equal(p.y, y)

def test_features_and_inputs_agree_where_zero_stays_zero():
    "Encoders without biases and norms make zeros of zeros; with them the two ways differ"
    learn = toy()
    learn.model.encoders.update({m: nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU()) for m in names[:2]})
    a,b = (BalanceInterpretation.from_learner(learn, at=at) for at in ('features','inputs'))
    for S in a.logits: assert torch.allclose(a.logits[S], b.logits[S], atol=1e-6)
    learn.model.encoders['audio'][0].bias = nn.Parameter(torch.ones(6))
    assert not torch.allclose(BalanceInterpretation.from_learner(learn, at='inputs').logits[('image',)], a.logits[('image',)], atol=1e-2)

def test_probe_is_compared_with_training_alone():
    df = linear_probe(toy(n=80), dict(audio=.9))
    assert df.under_optimised['audio']==pytest.approx(.9-df.probe['audio']) and df.under_optimised.isna()['image']

@pytest.mark.parametrize('bs', [1, 8, 37, 64])
def test_every_sample_counts(bs):
    "The training loader drops its last batch; no count does"
    interp,ref = (BalanceInterpretation.from_learner(toy(bs=o, drop_last=True), ds_idx=0) for o in (bs, 37))
    assert interp.count().total==37 and interp.values()==ref.values()

def states(learn): return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(), [o.training for o in learn.model.modules()], \
    {k: v.tolist() for k,v in learn.model.state_dict().items()}, [len(o._forward_pre_hooks) for o in learn.model.modules()], list(map(str, learn.cbs))

@pytest.mark.parametrize('f', [diagnose, linear_probe, BalanceInterpretation.from_learner, partial(BalanceInterpretation.from_learner, at='inputs', by='mean')])
def test_the_learner_is_left_as_it_was(f):
    learn = toy(partial(RegBNFusion, head=ConcatHead))
    learn.model.train().encoders['audio'][1].eval()  # a layer frozen by hand stays so
    before = deepcopy(states(learn))
    f(learn)
    assert states(learn)==before and learn.model.head._kept is None

def test_after_an_error_too():
    learn = toy()
    before = deepcopy(states(learn))
    learn.model.head.forward = lambda feats: 1/0
    with pytest.raises(ZeroDivisionError): FeaturePass(learn, learn.dls.valid)
    assert states(learn)==before

def test_shapley_of_three_and_a_dummy():
    learn = toy(SumHead, 3)
    with torch.no_grad():
        for p in learn.model.head.fcs['text'].parameters(): p.zero_()
    interp = BalanceInterpretation.from_learner(learn)
    phi,v = interp.shapley(n_boot=50).value, interp.values()
    assert phi['text']==0 and phi.sum()==pytest.approx(v[names]-v[()])
    assert interp.agreement().to_numpy().sum()==37 and interp.per_class().total.sum()==37

@pytest.mark.parametrize('head', [ConcatHead, GatedHead, partial(RegBNFusion, head=ConcatHead)])
def test_callbacks_do_not_disturb_each_other(head):
    "Two callbacks look at one head, and each sees what the model passed"
    uni,alone,inputs = UnimodalAccuracy(),AblatedAccuracy(),AblatedAccuracy(at='inputs')
    learn = toy(head, cbs=[inputs, alone, uni], metrics=[accuracy, MacroF1(), MeanAP(), *[m for o in (uni, alone, inputs) for m in o.metrics(names[:2])]])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    got,interp = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1])), BalanceInterpretation.from_learner(learn)
    at_inputs = BalanceInterpretation.from_learner(learn, at='inputs')
    for m in names[:2]:
        assert got[f'{m}_alone_inputs']==pytest.approx(at_inputs.count(m).accuracy)
        assert got[f'{m}_alone']==pytest.approx(interp.count(m).accuracy)
        own = interp.shares[m] if interp.shares else interp.logits[(m,)]
        assert got[f'{m}_accuracy']==pytest.approx((own.argmax(1)==interp.y).float().mean().item())
    assert got['accuracy']==pytest.approx(interp.count().accuracy)
    assert got['mean_ap']==pytest.approx(mean_ap(interp.logits[interp.all].softmax(1), interp.y))
    assert got['macro_f1']==pytest.approx(interp.accuracies(n_boot=2).macro_f1['all'])

def test_probe_is_deterministic():
    learn = toy(n=80)
    assert linear_probe(learn).equals(linear_probe(learn))

def test_one_page_for_three_modalities():
    page = repr(diagnose(toy(GatedHead, 3, n=80)))
    assert all(o in page for o in ('audio', 'image', 'text', 'What to try', 'on 80 samples'))
