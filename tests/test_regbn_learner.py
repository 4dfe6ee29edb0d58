"RegBN in a Learner: beside a balance method, through lr_find, export and a resumed run"
import copy, warnings
import pytest, torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import TensorDataset
import fastai.callback.schedule  # lr_find
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from mmbalance.callback.core import UnimodalAccuracy
from mmbalance.callback.ogm_ge import OGMGE
from mmbalance.callback.regbn import RegBNCallback
from mmbalance.layers.heads import SumHead
from mmbalance.fusion import RegBNFusion
from mmbalance.models import FusionModel

def learner(cbs=(), seed=0):
    torch.manual_seed(seed)
    shared = torch.randn(96, 3)
    xs = shared@torch.randn(3, 6)+torch.randn(96, 6),shared@torch.randn(3, 5)+torch.randn(96, 5)
    train = TensorDataset(*xs, (shared[:,0]>0).long())
    dls = DataLoaders.from_dsets(train, train, bs=16, device='cpu', shuffle=False)
    model = FusionModel(dict(audio=nn.Linear(6, 8), image=nn.Linear(5, 8)), RegBNFusion(dict(audio=8, image=8), 2, head=SumHead))
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), cbs=[RegBNCallback(), *cbs])

def layer(learn): return learn.model.head.regbn.layers[0]

class Seen(Callback):
    "The shares add up to the prediction, in each training batch"
    order = OGMGE.order+1
    def before_step(self): assert_close(sum(self.learn.ogmge.unimodal_logits.values()), self.pred, rtol=0, atol=1e-6)

def test_beside_a_balance_method():
    learn = learner([OGMGE(), UnimodalAccuracy(), Seen()])
    learn.fit(2)
    assert layer(learn).batches.tolist()==[12, 0, 0] and layer(learn).epoch==1  # one update for each batch
    assert learn.model.head._kept is None
    copy.deepcopy(learn.model)

def test_lr_find_moves_no_state():
    learn = learner()
    before = copy.deepcopy(learn.model.state_dict())
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); learn.lr_find(num_it=6, show_plot=False)
    assert_close(dict(learn.model.state_dict()), dict(before), rtol=0, atol=0)

def test_a_resumed_run_goes_on_the_same(tmp_path):
    "Two epochs in one go, and one, saved, loaded into a new Learner, and the other"
    def run(learn, epochs, start=0): learn.fit(epochs, 1e-2, start_epoch=start); return learn
    whole = run(learner(), 2)
    half = run(learner(), 1); half.save(tmp_path/'half')
    rest = learner(seed=0); rest.model.load_state_dict({k: v+1 if v.is_floating_point() else v for k,v in rest.model.state_dict().items()})
    with warnings.catch_warnings(): warnings.simplefilter('ignore', DeprecationWarning); rest.load(tmp_path/'half', with_opt=True)  # fastai reads numpy's old names
    run(rest, 2, start=1)
    assert_close(dict(rest.model.state_dict()), dict(whole.model.state_dict()), rtol=1e-5, atol=1e-6)
    assert layer(rest).epoch==1

def test_a_batch_that_cannot_be_used_is_told_once_an_epoch():
    class Silence(Callback):
        def before_batch(self):
            if self.training and self.iter==2: self.learn.xb = (self.xb[0], torch.zeros_like(self.xb[1]))
    learn = learner([Silence()])
    with warnings.catch_warnings(record=True) as seen: warnings.simplefilter('always'); learn.fit(2)
    told = [str(o.message) for o in seen if 'left f as it was' in str(o.message)]
    assert len(told)==2 and 'head.regbn.layers.0' in told[0] and '1 of 6' in told[0]
