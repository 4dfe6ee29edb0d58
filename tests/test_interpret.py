"What an interpretation says agrees with the worked example and with passes made by hand, and the learner is left as it was"
import random
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
import numpy as np, pytest, torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F
from fastai.data.core import DataLoaders, Datasets
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastcore.foundation import L
from fasttransform import Transform
from mmbalance.ablation import FeaturePass, subset_logits
from mmbalance.callback.core import UnimodalAccuracy
from mmbalance.callback.live import AblatedAccuracy, MacroF1, MeanAP, ShowBalance
from mmbalance.callback.ogm_ge import OGMGE
from mmbalance.diagnose import diagnose, linear_probe, training_pass, unimodal_learner
from mmbalance.interpret import BalanceInterpretation
from mmbalance.metrics import mean_ap
from mmbalance.layers.encoders import ConvEncoder
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

@pytest.mark.parametrize('at,extra', [('features',0), ('inputs',4)])
def test_one_pass_over_the_data(at, extra):
    "Eight subsets, and each encoder sees each batch once; to leave out inputs takes one batch more per modality, and blank ones"
    learn,seen = toy(m=3),[]
    for m,enc in learn.model.encoders.items(): enc.register_forward_hook(lambda enc, args, out, m=m: seen.append((m, len(out))))
    BalanceInterpretation.from_learner(learn, at=at)
    for m in names: assert len([o for o in seen if o[0]==m])==5+extra and sum(n for o,n in seen[:15] if o==m)==37

def test_compare():
    "The samples that exactly one gets right, with all modalities or with those that are named"
    y = torch.zeros(10, dtype=torch.long)
    def said(**right): return BalanceInterpretation({S: F.one_hot((torch.arange(10)>=right[''.join(S)]).long(), 2).float() for S in [(),('a',),('b',),('a','b')]}, y)
    first,second = (said(**o) for o in ({'': 0, 'a': 8, 'b': 1, 'ab': 9}, {'': 0, 'a': 2, 'b': 4, 'ab': 7}))
    for keep,want in (None, (.2,2,0)), ('a', (.6,6,0)), (('b',), (-.3,0,3)), ((), (0,0,0)):
        got = first.compare(second, keep)
        assert (round(got.difference.value, 9), got.only_first, got.only_second)==want

def test_macro_f1_counts_an_absent_class():
    "Four outputs, and targets of three classes: as scikit-learn with all labels, and not as fastai, which leaves the fourth out"
    y,logits = torch.tensor([0,1,2,2,1,0,2]),F.one_hot(torch.tensor([0,1,2,1,1,0,2]), 4).float()
    metric = MacroF1()
    metric.reset()
    for i in range(0, 7, 3): metric.accumulate(SimpleNamespace(pred=logits[i:i+3], y=y[i:i+3]))
    assert metric.value==pytest.approx(f1_score(y, logits.argmax(1), average='macro', labels=range(4), zero_division=0))
    assert metric.value<f1_score(y, logits.argmax(1), average='macro')-.2

def test_probe_sees_training_data_without_augmentation():
    "As in validation, and in order"
    class Turn(Transform):
        split_idx = 0
        def encodes(self, x:torch.Tensor): return -x if x.is_floating_point() else x
    learn = toy(n=40)
    x,y = (torch.stack(o) for o in zip(*[(o[0], o[-1]) for o in learn.dls.train.dataset]))
    tfms = [[lambda i: x[i], Turn()], [lambda i: x[i]], [lambda i: y[i]]]
    ds = Datasets(list(range(40)), tfms, splits=[list(range(40)), list(range(40))], n_inp=2)
    learn.dls = ds.dataloaders(bs=8, device='cpu', num_workers=0)
    seen = training_pass(learn)
    assert torch.equal(seen.y, y) and torch.allclose(seen.feats['audio'], learn.model.encoders['audio'].eval()(x))
    assert torch.equal(learn.dls.train_ds[0][0], -x[0])  # training is as before

def test_probe_by_hand():
    "Logistic regression on standardised features of the training data, its C chosen on every fourth sample of a class; other data are predicted"
    learn = toy(n=160)
    items = list(learn.dls.train.dataset)
    learn.dls = DataLoaders.from_dsets(L(items[:120]), L(items[120:]), bs=8, n_inp=2, drop_last=False)
    model = learn.model.eval()
    with torch.no_grad():
        for enc in model.encoders.values(): enc[1].weight *= torch.logspace(-3, 1, 6)  # features of very different sizes
    df,held = linear_probe(learn),torch.arange(120)%16>=12  # classes 0 to 3 in turn
    feats = [enc(torch.stack([o[i] for o in items])).detach().numpy() for i,enc in enumerate(model.encoders.values())]
    y = torch.tensor([int(o[-1]) for o in items]).numpy()
    def scores(x, C, fit, test): return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000)).fit(x[:120][fit], y[:120][fit]).score(*test)
    every = torch.ones(120, dtype=torch.bool)
    for m,x in zip([*names[:2],'all'], [*feats, np.concatenate(feats, 1)]):
        C = max((.001,.01,.1,1,10), key=lambda C: (scores(x, C, ~held, (x[:120][held], y[:120][held])), -C))
        row = df.loc[m]
        assert (row.C, row.total)==(C, 40) and row.train==pytest.approx(scores(x, C, every, (x[:120], y[:120]))) and row.train!=row.probe
        assert row.probe==row.right/40==pytest.approx(scores(x, C, every, (x[120:], y[120:])))
        se = (row.probe*(1-row.probe)/40)**.5
        assert row.probe-row.low==pytest.approx(1.96*se, abs=.03) and row.high-row.probe==pytest.approx(1.96*se, abs=.03)

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

@pytest.mark.parametrize('look', [UnimodalAccuracy, AblatedAccuracy, partial(AblatedAccuracy, at='inputs'), MacroF1, MeanAP])
@pytest.mark.parametrize('y', [lambda y: y.float(), lambda y: F.one_hot(y, 4).float()])
def test_targets_that_are_no_class_are_refused(look, y):
    "Not counted: a number equals a class by chance only"
    learn = toy()
    ys = y(torch.tensor([int(o[-1]) for o in learn.dls.train.dataset]))
    items = L([(*o[:-1], t) for o,t in zip(learn.dls.train.dataset, ys)])
    learn = Learner(DataLoaders.from_dsets(items, items, bs=8, n_inp=2), learn.model, lambda p,t: p.sum()*0, **{'metrics' if look in (MacroF1, MeanAP) else 'cbs': look()})
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match='one class index per sample'): learn.fit(1)

@pytest.mark.parametrize('look', [UnimodalAccuracy, AblatedAccuracy])
def test_metrics_of_modalities_that_are_not_there(look):
    cb = look()
    for kwargs,match in (dict(cbs=cb, metrics=cb.metrics(['audio','imgae'])), 'metric of imgae, but the modalities are audio, image'), (dict(metrics=look().metrics(['audio'])), 'pass the callback, too'):
        learn = toy(**kwargs)
        with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=match): learn.fit(1)
    with toy().no_bar() as learn, pytest.raises(TypeError, match='`encoders` .* and a `head`'): Learner(learn.dls, nn.Bilinear(4, 4, 4), CrossEntropyLossFlat(), cbs=AblatedAccuracy()).validate()

def test_the_picture_of_a_callback_alone():
    "Without accuracies there are ratio and coefficients; with neither there is nothing to draw"
    both,alone = toy(cbs=[OGMGE(), uni := UnimodalAccuracy()], metrics=uni.metrics(names[:2])),toy(cbs=[OGMGE(), ShowBalance()])
    for learn,titles in (both, ['on the validation data']), (alone, []):
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        assert [o.get_title() for o in learn.recorder.plot_balance()]==titles+['discrepancy ratio','modulation coefficient']
    assert len(alone.show_balance.fig.axes)==2
    with pytest.raises(ValueError, match='Nothing was recorded of audio, image .no epoch.'): toy().recorder.plot_balance()

def test_one_modality_of_clips():
    "Frames are folded into the batch, as in the joint model; the other inputs are not looked at"
    items = [(torch.randn(4), torch.randn(3, 2, 8, 8), torch.tensor(i%3)) for i in range(12)]
    dls = DataLoaders.from_dsets(items, items, bs=4, n_inp=2)
    dls.c = 3
    learn = unimodal_learner(dls, dict(audio=nn.Linear(4, 5), video=partial(ConvEncoder, widths=(4,))), 'video', loss_func=CrossEntropyLossFlat())
    with learn.no_bar(): assert len(learn.validate())==2
    a,v,y = dls.valid.one_batch()
    assert torch.equal(learn.model.eval()(a, v), learn.model(a+1, v)) and not torch.allclose(learn.model(a, v), learn.model(a, v+1))

def test_probe_is_deterministic():
    learn = toy(n=80)
    assert linear_probe(learn).equals(linear_probe(learn))

def test_one_page_for_three_modalities():
    page = repr(diagnose(toy(GatedHead, 3, n=80)))
    assert all(o in page for o in ('audio', 'image', 'text', 'What to try', 'on 80 samples'))
