"Every call of fastai's on pairs and on three modalities; the table in the documentation has one line per test of this file"
import json, re
from base64 import b64decode
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from PIL import Image
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import *
from fastai.callback.training import GradientAccumulation
from fastai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from fastai.data.transforms import ColReader, ColSplitter, EndSplitter, Normalize
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.learner import load_learner
from fastai.metrics import accuracy, accuracy_multi, mse
from fastai.torch_core import TensorImage, set_seed, tensor
from fastai.vision.augment import Flip, RandomCrop, Resize, aug_transforms
from fastai.vision.data import ImageBlock
from fastcore.basics import noop
from mmbalance.callback.mixup import MultimodalCutMix, MultimodalMixUp
from mmbalance.callback.ogm_ge import OGMGE
from mmbalance.core import plain
from mmbalance.data.audio import AudioBlock, LoadAudio, MelSpecBlock, SpecBlock, ToMelSpec
from mmbalance.data.av_digits import GreyImageBlock
from mmbalance.data.core import TensorAudio, TensorSpec
from mmbalance.data.pairs import MultimodalDataBlock
from mmbalance.data.video import FramesBlock
from mmbalance.diagnose import diagnose, linear_probe
from mmbalance.interpret import BalanceInterpretation
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.layers.heads import GatedHead
from mmbalance.learner import create_encoder, fusion_learner, load_model, save_model
from mmbalance.loaders import MultimodalDataLoaders
from mmbalance.media import write_video
from torch.overrides import handle_torch_function, has_torch_function_unary
from torchvision.models import resnet18

torch.set_num_threads(1)
n_items,pitches = 24,dict(low=300, mid=800, high=2000)
small = partial(ConvEncoder, widths=(4,8))

def row_vector(row): return [row.name, pitches[row.label]]
def to_vector(o): return tensor(o).float()
def vector_encoder(n_in): return torch.nn.Sequential(torch.nn.BatchNorm1d(n_in), torch.nn.Linear(n_in, 4))
def text_ids(row): return [row.name%5, *range(5)]

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Tones, each at a loudness of its own that names its row, with pictures of one grey level each"
    path,rng = tmp_path_factory.mktemp('pairs'),np.random.default_rng(0)
    labels = [list(pitches)[i%3] for i in range(n_items)]
    for i,label in enumerate(labels):
        sf.write(path/f'{i}.wav', (i+1)/30*np.sin(2*np.pi*pitches[label]*np.arange(4000)/8000), 8000)
        Image.fromarray(np.full((36,40,3), 10*i, 'uint8')).save(path/f'{i}.png')
    df = pd.DataFrame(dict(audio=[f'{i}.wav' for i in range(n_items)], image=[f'{i}.png' for i in range(n_items)], label=labels,
        tags=[f'{o} tone' for o in labels], value=rng.random(n_items), is_valid=[i%4==3 for i in range(n_items)]))
    return path,df

def block(path, n=2, y=CategoryBlock, get_y=ColReader('label'), item_tfms=Resize(32), audio=MelSpecBlock(sr=8000, length=.4, n_mels=16), **kwargs):
    inputs = dict(audio=audio, image=ImageBlock, vector=TransformBlock(type_tfms=to_vector))
    get_x = dict(audio=ColReader('audio', pref=path), image=ColReader('image', pref=path), vector=row_vector)
    return MultimodalDataBlock(y=y, get_x={k: get_x[k] for k in [*inputs][:n]}, get_y=get_y, splitter=ColSplitter(), item_tfms=item_tfms,
        **dict([*inputs.items()][:n]), **kwargs)

def learner(dls, path, **kwargs):
    set_seed(0)
    encoders = dict(audio=small(1), image=small(3), vector=vector_encoder(2))
    return fusion_learner(dls, {m: encoders[m] for m in dls.modalities}, path=path, **kwargs)

@pytest.fixture(params=[2,3], ids=['pair','three'])
def case(request, data):
    path,df = data
    set_seed(0)
    dblock = block(path, request.param)
    dls = dblock.dataloaders(df, bs=4, num_workers=0)
    return SimpleNamespace(n=request.param, path=path, df=df, block=dblock, dls=dls, learn=learner(dls, path, metrics=accuracy))

@pytest.fixture
def shown(monkeypatch):
    "What was shown, as HTML"
    res = []
    monkeypatch.setattr('mmbalance.data.core.show_html', lambda html, png=None: res.append(html))
    return res

def sounds(html): return [sf.read(BytesIO(b64decode(o)))[0] for o in re.findall(r'src="data:audio/wav;base64,([^"]+)"', html)]
def row_of(sound): return round(np.asarray(sound).std()*2**.5*30)-1
def inputs(case, i):
    row = case.df.iloc[i]
    return (case.path/row.audio, case.path/row.image, row_vector(row))[:case.n]

def check_shown(html, df, n):
    "Each cell has one picture and one player, and the player plays a sound of the class in the title"
    cells = html.split('<div style="border')[1:]
    assert len(cells)==n
    for cell in cells:
        sound, = sounds(cell)
        assert df.label[row_of(sound)] == re.search('<div>(.*?)</div>', cell)[1].split(' / ')[0]
        assert cell.count('<img')==1

def test_show_batch(case, shown):
    case.dls.show_batch(max_n=3)
    check_shown(shown[0], case.df, 3)
    case.dls.valid.show_batch(max_n=4, ncols=2)
    assert [row_of(o) for o in sounds(shown[1])]==[3,7,11,15]

def test_show_batch_unique(case, shown):
    case.dls.train.show_batch(max_n=3, unique=True)
    assert len({row_of(o) for o in sounds(shown[0])})==1
    case.dls.train.show_batch(max_n=4)
    assert len({row_of(o) for o in sounds(shown[1])})>1

def test_show_results(case, shown):
    case.learn.show_results(max_n=4, shuffle=False)
    check_shown(shown[0], case.df, 4)
    assert ' / ' in shown[0]

def test_summary(case, capsys, shown):
    case.block.summary(case.df, show_batch=True)
    assert len(sounds(shown[0]))==4
    assert 'TensorSpec of size 4x1x16' in capsys.readouterr().out

def test_one_batch(case):
    b = case.dls.one_batch()
    assert [tuple(o.shape) for o in b]==[(4,1,16,26), (4,3,32,32), (4,2)][:case.n]+[(4,)]
    assert isinstance(b[0], TensorSpec) and b[0].wave.shape==(4,1,3200)

def test_test_dl(case):
    rows = case.df.iloc[[2,5]]
    b, = case.dls.test_dl(rows)
    assert len(b)==case.n
    b, = case.dls.test_dl(rows, with_labels=True)
    assert b[-1].tolist()==[case.dls.vocab.o2i[o] for o in rows.label]
    b, = case.dls.test_dl([inputs(case, i) for i in (2,5)])
    for got,want in zip(b, next(iter(case.dls.test_dl(rows)))): assert torch.equal(got, want)

def test_test_dl_given_with_labels(case):
    b, = case.dls.test_dl([(*inputs(case, i), case.df.label[i]) for i in (2,5)], with_labels=True)
    assert b[-1].tolist()==[case.dls.vocab.o2i[case.df.label[i]] for i in (2,5)]

def test_get_preds(case):
    inps,preds,targs,dec,losses = case.learn.get_preds(with_input=True, with_decoded=True, with_loss=True)
    assert preds.shape==(6,3) and dec.shape==losses.shape==(6,)
    assert [row_of(o.wave[0]) for o in inps[0]]==[3,7,11,15,19,23]
    assert targs.tolist()==[case.dls.vocab.o2i[o] for o in case.df.label[3::4]]

def test_predict_row_and_files(case):
    want = case.learn.get_preds(dl=case.dls.test_dl(case.df.iloc[[7]]))[0][0]
    for item in case.df.iloc[7], inputs(case, 7), [str(o) if i<2 else o for i,o in enumerate(inputs(case, 7))], dict(zip(case.dls.modalities, inputs(case, 7))):
        label,i,probs = case.learn.predict(item)
        assert torch.equal(probs, want) and label==case.dls.vocab[i]

def test_predict_arrays(case):
    item = [sf.read(inputs(case, 7)[0])[0], np.array(Image.open(inputs(case, 7)[1])), np.array(row_vector(case.df.iloc[7]))][:case.n]
    assert torch.allclose(case.learn.predict(item)[2], case.learn.predict(case.df.iloc[7])[2], atol=1e-4)

def test_predict_grey_pictures(data):
    "`GreyImageBlock` takes a picture as a file or as an array"
    path,df = data
    av = MultimodalDataBlock(audio=MelSpecBlock(sr=8000, length=.4, n_mels=16), image=GreyImageBlock(), y=CategoryBlock, get_x={m: ColReader(m, pref=path) for m in ('audio','image')}, splitter=ColSplitter())
    dls = av.dataloaders(df, bs=4, num_workers=0)
    learn = fusion_learner(dls, dict(audio=small, image=small), path=path)
    want = learn.predict(df.iloc[7])[2]
    for o in Image.open(path/df.image[7]), np.array(Image.open(path/df.image[7])), np.array(Image.open(path/df.image[7]))[...,0]:
        assert torch.equal(learn.predict((path/df.audio[7], o))[2], want)

@pytest.mark.parametrize('n', [2,3])
def test_predict_one_video(tmp_path, n):
    "One file that holds all modalities is enough; here for sound, frames and the sound's waveform"
    files = [tmp_path/f'{i}_{"ab"[i%2]}.mp4' for i in range(6)]
    for i,fn in enumerate(files): write_video(fn, np.full((6,32,32,3), 40*i, 'uint8'), 10, .3*np.sin(np.arange(9600)*(.1+i%2)))
    blocks = dict(audio=MelSpecBlock(length=.4, n_mels=16), frames=FramesBlock(2), wave=SpecBlock(length=.4))
    dls = MultimodalDataLoaders.from_path_func(tmp_path, files, video_label, dict([*blocks.items()][:n]), splitter=EndSplitter(.34), bs=2, num_workers=0)
    learn = fusion_learner(dls, {m: small for m in dls.modalities}, path=tmp_path)
    with learn.no_bar(): learn.fit(1)
    want = learn.get_preds()[0]
    for fn,probs in zip(dls.valid_ds.items, want):
        for o in fn, str(fn), (fn,)*n, {m: fn for m in dls.modalities}: assert torch.allclose(learn.predict(o)[2], probs, atol=1e-6)
        learn.predict((fn, None, fn)[:n])
    b,again = dls.valid.one_batch(),load_model(save_model(learn, tmp_path/'again'))
    with torch.no_grad(): assert torch.equal(again(*b[:n]), learn.model.eval()(*b[:n]))

def video_label(fn): return fn.stem[-1]

def test_predict_with_input(case):
    inp,*_ = case.learn.predict(inputs(case, 7), with_input=True)
    assert len(inp)==case.n and row_of(inp[0].wave)==7

@pytest.mark.parametrize('missing', ['audio','image'])
def test_predict_missing(case, missing):
    "The features of a missing modality are zero"
    with case.learn.no_bar(): case.learn.fit(1, .1)  # so that a blank input has features
    item = dict(zip(case.dls.modalities, inputs(case, 7)))
    probs = case.learn.predict({**item, missing: None})[2]
    assert torch.equal(probs, case.learn.predict([v if k!=missing else None for k,v in item.items()])[2])
    assert torch.equal(probs, case.learn.predict({k: v for k,v in item.items() if k!=missing})[2])
    b, = case.dls.test_dl([item])
    with torch.no_grad():
        model = case.learn.model.eval()
        feats = {m: enc(x.as_subclass(torch.Tensor)) for (m,enc),x in zip(model.encoders.items(), b)}
        feats[missing].zero_()
        assert torch.allclose(probs, model.head(feats)[0].softmax(0), atol=1e-6)
    assert not model.head._forward_pre_hooks

def test_missing_within_a_batch(case):
    items = [dict(zip(case.dls.modalities, inputs(case, i))) for i in range(6)]
    items[1]['image'] = items[4]['audio'] = None
    preds,_ = case.learn.get_preds(dl=case.dls.test_dl(items))
    for item,pred in zip(items, preds): assert torch.allclose(pred, case.learn.predict(item)[2], atol=1e-6)

def test_missing_all(case):
    with pytest.raises(ValueError, match='audio, image'): case.learn.predict([None]*case.n)

def test_predict_misspelt(case):
    "A name that is no modality's is not taken for a missing one"
    item = dict(zip(case.dls.modalities, inputs(case, 7)))
    with pytest.raises(ValueError, match=f'There is no modality adio; the modalities are {", ".join(item)}, and audio did not come'):
        case.learn.predict({{'audio': 'adio'}.get(m, m): o for m,o in item.items()})
    assert torch.equal(case.learn.predict(item | dict(label='low'))[2], case.learn.predict(item)[2])  # nothing lacks, so a row with more columns will do

def test_predict_one_file_of_several(case):
    for fn,why in zip(inputs(case, 7), ('cannot identify image file','cannot be read as audio')):
        for o in fn, str(fn):
            with pytest.raises(ValueError, match=rf'{fn.name}.*{why}.* One file came for {", ".join(case.dls.modalities)}.*pass one for each: \({", ".join(case.dls.modalities)}\)'): case.learn.predict(o)
    with pytest.raises(ValueError, match=f'A tuple of 1 came, and the inputs are {", ".join(case.dls.modalities)}; pass them in this order, None for one that is missing'): case.learn.predict(inputs(case, 7)[:1])

def test_validate(case):
    loss,acc,*uni = case.learn.validate()
    assert len(uni)==case.n and 0<=acc<=1
    assert not case.learn.model.head._forward_pre_hooks

@pytest.mark.filterwarnings('ignore:.*numpy.core is deprecated')  # torch and fastai, in checkpoints
def test_lr_find(case):
    before = {k: v.clone() for k,v in case.learn.model.state_dict().items()}
    with case.learn.no_bar(): assert case.learn.lr_find(num_it=20, show_plot=False).valley>0
    for k,v in case.learn.model.state_dict().items(): assert torch.equal(v, before[k])

def test_fit_one_cycle(case):
    with case.learn.no_bar(): case.learn.fit_one_cycle(2, slice(1e-3,1e-2), cbs=[OGMGE(), GradientAccumulation(8)])
    assert len(case.learn.recorder.values)==2

def test_fine_tune(case):
    with case.learn.no_bar(): case.learn.fine_tune(1)
    assert len(case.learn.recorder.values)==1 and len(case.learn.opt.param_groups)==case.n+1

def test_tta(data):
    path,df = data
    dls = block(path, batch_tfms=aug_transforms(size=24)).dataloaders(df, bs=4, num_workers=0)
    learn = learner(dls, path)
    with learn.no_bar(): preds,targs = learn.tta(n=2)
    assert preds.shape==(6,3) and torch.allclose(preds.sum(1), torch.ones(6), atol=1e-5)
    assert not torch.allclose(preds, learn.get_preds()[0])

def test_export(case, monkeypatch):
    monkeypatch.setattr('fastai.learner.warn', lambda *args: None)  # that pickle is not safe
    item = inputs(case, 7)
    want = case.learn.predict(item)[2]
    case.learn.export('learn.pkl')
    learn = load_learner(case.path/'learn.pkl')
    assert torch.equal(learn.predict(item)[2], want)
    assert torch.equal(learn.predict(case.df.iloc[7])[2], want)
    learn.predict((item[0], None, *item[2:]))
    assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(case.df.iloc[[7]]))[0][0], want)

def test_diagnose_exported(case, monkeypatch):
    "The probes cannot be fitted without training data; what the error offers works"
    monkeypatch.setattr('fastai.learner.warn', lambda *args: None)  # that pickle is not safe
    want = diagnose(case.learn)
    case.learn.export('learn.pkl')
    learn = load_learner(case.path/'learn.pkl')
    for kwargs in dict(), dict(dl=case.dls.valid):
        for f in diagnose, linear_probe:
            with pytest.raises(ValueError, match=r'probes are fitted to the training data.*exported.*`learn.dls = dls`.*`BalanceInterpretation.from_learner\(learn, dl=dl\)`'): f(learn, **kwargs)
    dl = learn.dls.test_dl(case.df.iloc[3::4], with_labels=True)
    assert BalanceInterpretation.from_learner(learn, dl=dl).count()==want.joint
    with pytest.raises(ValueError, match='There is no sample in the data.*exported.*`dl='): BalanceInterpretation.from_learner(learn)
    learn.dls = case.dls
    assert diagnose(learn).table.equals(want.table)

@pytest.mark.filterwarnings('ignore:.*numpy.core is deprecated')  # torch and fastai, in checkpoints
def test_save_load(case):
    with case.learn.no_bar(): case.learn.fit(1)
    want = case.learn.get_preds()[0]
    case.learn.save('weights')
    with case.learn.no_bar(): case.learn.fit(1, .1)
    assert not torch.equal(case.learn.get_preds()[0], want)
    case.learn.load('weights')
    assert torch.equal(case.learn.get_preds()[0], want)

def test_interpretation(case, shown):
    interp = Interpretation.from_learner(case.learn)
    losses,idx,items = interp.top_losses(2, items=True)
    interp.show_results(idx.tolist())
    assert [row_of(o) for o in sounds(shown[0])]==items.index.tolist()

@pytest.mark.filterwarnings('ignore:Precision is ill-defined')  # scikit-learn
def test_confusion_matrix(case):
    interp = ClassificationInterpretation.from_learner(case.learn)
    assert interp.confusion_matrix().sum()==6
    interp.plot_confusion_matrix()
    assert sum(o[2] for o in interp.most_confused())<=6
    interp.print_classification_report()

@pytest.mark.parametrize('which', [3, range(1,3)])
def test_plot_top_losses(case, shown, which):
    interp = ClassificationInterpretation.from_learner(case.learn)
    interp.plot_top_losses(which)
    losses,idx = interp.top_losses()
    idx = idx[:3] if which==3 else idx[1:3]
    assert [row_of(o) for o in sounds(shown[0])]==case.df.index[case.df.is_valid][idx.numpy()].tolist()
    check_shown(shown[0], case.df, len(idx))
    preds,y,loss = case.learn.get_preds(with_loss=True)
    want = [f'{case.dls.vocab[y[i]]} / {case.dls.vocab[preds[i].argmax()]} / {loss[i].item():.2f} / {preds[i].max().item():.2f}' for i in idx.tolist()]
    assert [re.search('<div>(.*?)</div>', o)[1] for o in shown[0].split('<div style="border')[1:]]==want

@pytest.mark.parametrize('mix', [MultimodalMixUp, MultimodalCutMix])
def test_mix(case, mix):
    loss_func = case.learn.loss_func
    with case.learn.no_bar(): case.learn.fit_one_cycle(1, 1e-3, cbs=mix())
    assert case.learn.loss_func is loss_func and case.learn.recorder.values

@pytest.mark.parametrize('mix', [MultimodalMixUp, MultimodalCutMix])
def test_failure_leaves_the_learner_as_it_was(case, mix):
    loss_func,cbs = case.learn.loss_func,list(case.learn.cbs)
    def boom(self): raise RuntimeError('boom')
    for event in 'before_batch after_pred after_loss after_step after_epoch'.split():
        with case.learn.no_bar(), pytest.raises(RuntimeError, match='boom'): case.learn.fit(1, cbs=[mix(), type('Boom', (Callback,), {event: boom})()])
        assert case.learn.loss_func is loss_func
    with case.learn.no_bar(): case.learn.fit(1)

@pytest.mark.filterwarnings('ignore:.*CUDA is not available')
@pytest.mark.parametrize('to', ['to_fp16','to_bf16'])
def test_mixed_precision(case, to):
    with case.learn.no_bar(): getattr(case.learn, to)().fit(1)
    assert case.learn.predict(inputs(case, 7))[2].dtype==torch.float32

@pytest.mark.parametrize('n', [2,3])
@pytest.mark.parametrize('kind', ['multi','regression','regression2'])
def test_other_targets(data, n, kind, shown):
    path,df = data
    y,get_y,metric = dict(multi=(MultiCategoryBlock, ColReader('tags', label_delim=' '), accuracy_multi),
        regression=(RegressionBlock, ColReader('value'), mse), regression2=(RegressionBlock(2), ColReader(['value','value']), mse))[kind]
    learn = learner(block(path, n, y, get_y).dataloaders(df, bs=4, num_workers=0), path, metrics=metric)
    with learn.no_bar(): learn.fit_one_cycle(1, 1e-3)
    item = (path/df.audio[7], path/df.image[7], row_vector(df.iloc[7]))[:n]
    dec,_,raw = learn.predict(item)
    assert raw.shape==dict(multi=(4,), regression=(1,), regression2=(2,))[kind]
    learn.show_results(max_n=2)
    learn.dls.show_batch(max_n=2)
    Interpretation.from_learner(learn).plot_top_losses(2)
    assert [len(sounds(o)) for o in shown]==[2,2,2]
    for mix in MultimodalMixUp, MultimodalCutMix:
        with learn.no_bar(): learn.fit(1, cbs=mix())

def test_workers(case):
    one = [b for b in case.dls.valid]
    two = [b for b in case.dls.valid.new(num_workers=2)]
    for x,y in zip(one, two):
        for o,p in zip(x, y): assert type(o) is type(p) and torch.equal(o, p)
    assert two[0][0].wave.sr==8000
    with case.learn.no_bar(): case.learn.fit(1, cbs=[])

def same(a, b):
    "Types, values and attributes, of what a tensor holds, too"
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(plain(a), plain(b)) and vars(a).keys()==vars(b).keys()
        for k in vars(a): same(vars(a)[k], vars(b)[k])
    elif isinstance(a, (tuple, list)):
        assert len(a)==len(b)
        for x,y in zip(a, b): same(x, y)
    else: assert a==b
    return True

@pytest.fixture
def pinned(monkeypatch):
    "Stands in for a GPU, so that torch's own code pins batches: a pinned tensor is a copy, and what was pinned is kept here"
    kept = []
    def pin_memory(self, device=None):
        if has_torch_function_unary(self): return handle_torch_function(pin_memory, (self,), self)  # as torch's own does for subclasses
        kept.append(torch.Tensor.clone(self))
        return kept[-1]
    monkeypatch.setattr(torch.Tensor, 'pin_memory', pin_memory)
    for k,v in dict(is_available=lambda: True, current_accelerator=lambda: torch.device('cpu'), current_device_index=lambda: 0, set_device_index=lambda i: None).items():
        monkeypatch.setattr(torch.accelerator, k, v)
    return kept

def clip_of(row): return np.full((4,8,8,3), row.name, 'uint8')
def two_of(row): return tensor([row.name, 1]),TensorImage(torch.full((3,4,4), row.name))
mel = dict(sr=8000, n_mels=16)
kinds = {  # inputs with their getters where these are no columns, and the target
    'sound': (dict(audio=AudioBlock(sr=8000, length=.1)), {}, CategoryBlock, 'label'),
    'spectrogram': (dict(audio=MelSpecBlock(length=.1, **mel)), {}, MultiCategoryBlock, 'tags'),
    'spectrogram of an item': (dict(audio=TransformBlock(type_tfms=[LoadAudio(8000, .1), ToMelSpec(**mel)])), {}, CategoryBlock, 'label'),
    'frames': (dict(frames=FramesBlock(2)), dict(frames=clip_of), RegressionBlock, 'value'),
    'three': (dict(audio=MelSpecBlock(length=.1, **mel), image=ImageBlock, frames=FramesBlock(2)), dict(frames=clip_of), CategoryBlock, 'label'),
    'tuple': (dict(audio=AudioBlock(sr=8000, length=.1), two=TransformBlock(type_tfms=two_of)), dict(two=noop), CategoryBlock, 'label')}

@pytest.mark.parametrize('num_workers', [0,2])
@pytest.mark.parametrize('kind', kinds)
def test_pinning_keeps_batches_whole(data, pinned, kind, num_workers):
    "torch's own pinning code, in its own thread where there are workers, with a stand-in for the GPU: types, values and attributes are those without it"
    path,df = data
    blocks,own,y,col = kinds[kind]
    get_x = {m: own.get(m) or ColReader(m, pref=path) for m in blocks}
    get_y = ColReader(col, label_delim=' ' if y is MultiCategoryBlock else None)
    make = partial(MultimodalDataBlock(y=y, get_x=get_x, get_y=get_y, splitter=ColSplitter(), **blocks).dataloaders, df, bs=4, device='cpu')
    want = [list(dl) for dl in (make(num_workers=0).valid, make(num_workers=0).valid.new(after_batch=noop))]
    assert not pinned
    dls = make(num_workers=num_workers, pin_memory=True)
    got = list(dls.valid)
    assert same(got, want[0]) and len(pinned)>=len(want[0])*(len(blocks)+1)
    pinned.clear()
    raw = list(dls.valid.new(after_batch=noop))  # what was pinned, as it was pinned
    assert same(raw, want[1])
    held = {o.data_ptr() for o in pinned}
    for b in raw:
        for o in tensors_of(b): assert o.data_ptr() in held
    if kind=='sound': assert got[0][0].sr==8000
    if kind.startswith('spectrogram'): assert isinstance(got[0][0], TensorSpec) and got[0][0].wave.shape==(4,1,800) and got[0][0].wave.sr==got[0][0].sr==8000

def tensors_of(o):
    "All tensors, those that a tensor holds, too"
    if isinstance(o, torch.Tensor): return [o, *tensors_of(list(vars(o).values()))]
    return [t for x in o for t in tensors_of(x)] if isinstance(o, (tuple, list)) else []

@pytest.mark.skipif(not torch.cuda.is_available(), reason='memory is pinned for a GPU')
def test_pinned_memory(case):
    "Same batches, with their sounds"
    for x,y in zip(case.dls.valid, case.dls.valid.new(num_workers=2, pin_memory=True)):
        for o,p in zip(x, y): assert type(o) is type(p) and torch.equal(o, p)
        assert torch.equal(x[0].wave, y[0].wave) and y[0].is_cuda

@pytest.mark.parametrize('n', [1,2])
def test_row_of_numbers(data, n):
    "Columns of a table are a modality, beside a sound, or beside a sound and a picture"
    path,df = data
    df = df.assign(height=np.arange(24.), weight=1.)
    inputs = dict(audio=(AudioBlock(sr=8000, length=.1), ColReader('audio', pref=path)), image=(ImageBlock, ColReader('image', pref=path)))
    av = MultimodalDataBlock(**{m: o[0] for m,o in [*inputs.items()][:n]}, row=TransformBlock(type_tfms=to_vector), y=CategoryBlock,
        get_x=[o[1] for o in [*inputs.values()][:n]]+[ColReader(['height','weight'])], splitter=ColSplitter())
    dls = av.dataloaders(df, bs=4, num_workers=0)
    assert torch.equal(dls.valid.one_batch()[n], tensor([[3.,1],[7,1],[11,1],[15,1]]))
    wave = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(800, 4))
    learn = fusion_learner(dls, dict(**dict(audio=wave, image=small(3)) if n==2 else dict(audio=wave), row=vector_encoder(2)), path=path)
    with learn.no_bar(): learn.fit(1)
    assert torch.allclose(learn.predict((*[path/df[m][7] for m in [*inputs][:n]], [7.,1.]))[2], learn.predict(df.iloc[7])[2], atol=1e-6)

def test_two_audio_inputs_keep_their_settings(data):
    path,df = data
    av = MultimodalDataBlock(mel=MelSpecBlock(sr=8000, length=.4, n_mels=16), fine=MelSpecBlock(sr=4000, length=.2, n_mels=20, n_fft=256), stft=SpecBlock(sr=8000, length=.3),
        wave=AudioBlock(sr=8000, length=.1), y=CategoryBlock, get_x=[ColReader('audio', pref=path)]*4, splitter=ColSplitter())
    dls = av.dataloaders(df, bs=4, num_workers=0)
    b = dls.one_batch()
    assert [tuple(o.shape[1:]) for o in b[:4]]==[(1,16,26), (1,20,13), (1,257,19), (1,800)]
    assert [o.sr for o in b[:4]]==[8000, 4000, 8000, 8000]
    for o in b[:3]: assert abs(o.as_subclass(torch.Tensor).mean())<.7 and .5<o.as_subclass(torch.Tensor).std()<1.6

def test_plain_block_refuses_to_mix_settings(data):
    from fastai.data.block import DataBlock
    path,df = data
    for a,b in (MelSpecBlock(sr=8000), MelSpecBlock(sr=8000, n_mels=20)), (MelSpecBlock(sr=8000), SpecBlock(sr=8000)), (AudioBlock(sr=8000), SpecBlock(sr=8000)):
        plain = DataBlock((a, b, CategoryBlock), n_inp=2, get_x=[ColReader('audio', pref=path)]*2, get_y=ColReader('label'), splitter=ColSplitter())
        with pytest.raises(ValueError, match='use `MultimodalDataBlock`'): plain.dataloaders(df, bs=4, num_workers=0).one_batch()

def test_normalize_takes_each_inputs_own_statistics(data):
    path,df = data
    av = MultimodalDataBlock(audio=MelSpecBlock(sr=8000, length=.4, n_mels=16, normalize=False), left=ImageBlock, right=ImageBlock, y=CategoryBlock,
        get_x=[ColReader('audio', pref=path), ColReader('image', pref=path), ColReader('image', pref=path)], splitter=ColSplitter(), batch_tfms=[Normalize()],
        item_tfms=dict(left=Resize(16), right=Resize(32)))
    dls = av.dataloaders(df, bs=18, num_workers=0)
    spec,left,right,_ = dls.one_batch()
    assert spec.as_subclass(torch.Tensor).mean()<-2  # left as it was
    assert left.shape[-1]==16 and right.shape[-1]==32
    for x in left,right: assert x.mean().abs()<.01 and abs(x.std()-1)<.01
    for x in dls.decode((spec,left,right))[1:]: assert ((x.float()+5)%10-5).abs().max()<=1  # the grey levels of the files

def test_pictures_are_augmented_by_their_own_size(data):
    "fastai draws crops by the size of the first input, which is a sound here"
    path,df = data
    grey = block(path, item_tfms=RandomCrop(20)).dataloaders(df, bs=6, num_workers=0, shuffle=False)
    for dl in grey.train,grey.valid:  # a crop that left the picture would be padded
        for x,i in zip(dl.one_batch()[1], dl.items.index): assert (x*255-10*i).abs().max()<.01
    dls = block(path, item_tfms=RandomCrop(20), batch_tfms=aug_transforms(size=16)+[Normalize()]).dataloaders(df, bs=4, num_workers=0)
    assert dls.one_batch()[1].shape==(4,3,16,16) and dls.valid.one_batch()[1].shape==(4,3,16,16)

def test_text_ids(data):
    path,df = data
    av = MultimodalDataBlock(text=TransformBlock(type_tfms=tensor), image=ImageBlock, y=CategoryBlock, get_x=[text_ids, ColReader('image', pref=path)],
        splitter=ColSplitter(), item_tfms=Resize(32), batch_tfms=aug_transforms())
    dls = av.dataloaders(df, bs=4, num_workers=0)
    learn = fusion_learner(dls, dict(text=torch.nn.Sequential(torch.nn.Embedding(6,4), torch.nn.Flatten()), image=small(3)), path=path)
    with learn.no_bar(): learn.fit(1)
    with learn.no_bar(): learn.fit(1, cbs=MultimodalCutMix())
    with learn.no_bar(), pytest.raises(TypeError, match='text'): learn.fit(1, cbs=MultimodalMixUp())

def test_strings_are_refused(data):
    path,df = data
    av = MultimodalDataBlock(audio=AudioBlock(sr=8000), title=TransformBlock, y=CategoryBlock, get_x=[ColReader('audio', pref=path), ColReader('tags')], splitter=ColSplitter())
    with pytest.raises(TypeError, match='title'): av.dataloaders(df, bs=4, num_workers=0).one_batch()

def pretended(weights=None):
    "A torchvision architecture, as if its weights came from images"
    set_seed(3)
    return resnet18()

def test_image_weights_on_one_channel():
    "The first layer is summed over its channels: one channel gives what three equal ones gave"
    one,three = (create_encoder(pretended, n, pretrained=True).eval() for n in (1,3))
    x = torch.randn(2,1,40,40)
    with torch.no_grad(): assert torch.allclose(one(x), three(x.expand(-1,3,-1,-1)), atol=1e-4)

def test_discriminative_rates_and_freezing(case):
    case.learn.freeze()
    frozen = {k: v.clone() for k,v in case.learn.model.encoders.named_parameters()}
    head = [o.clone() for o in case.learn.model.head.parameters()]
    with case.learn.no_bar(): case.learn.fit(1, 1e-1)
    norms = {f'{a}.{b}' if a else b for a,m in case.learn.model.encoders.named_modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for b,_ in m.named_parameters(recurse=False)}
    for k,v in case.learn.model.encoders.named_parameters(): assert k in norms or torch.equal(v, frozen[k])
    assert not all(torch.equal(*o) for o in zip(head, case.learn.model.head.parameters()))
    case.learn.unfreeze()
    assert all(o.requires_grad for o in case.learn.model.parameters())
    with case.learn.no_bar(): case.learn.fit_one_cycle(1, slice(1e-5,1e-3))
    lrs = [o['lr'] for o in case.learn.opt.hypers]
    assert len(lrs)==case.n+1 and lrs[-1]>1.5*lrs[0]
    held = [id(p) for g in case.learn.splitter(case.learn.model) for p in g]
    assert len(held)==len(set(held)) and set(held)=={id(p) for p in case.learn.model.parameters()}  # each parameter in one group

def test_safe_weights(data):
    "What is loaded is the same model, in any place; a class of one's own is named and passed"
    path,df = data
    dls = block(path).dataloaders(df, bs=4, num_workers=0)
    learn = fusion_learner(dls, dict(audio=small_class, image='resnet10t'), partial(GatedHead, n_hidden=8), path=path)
    fn = save_model(learn, path/'rebuilt')
    assert [o.name for o in sorted(path.glob('rebuilt*'))]==['rebuilt.json','rebuilt.safetensors'] and 'timm:resnet10t' in (path/'rebuilt.json').read_text()
    with pytest.raises(ValueError, match=r'known=\[small_class\]'): load_model(fn)
    b = dls.valid.one_batch()
    with torch.no_grad(): assert torch.equal(load_model(fn, known=[small_class])(*b[:2]), learn.model.eval()(*b[:2]))

def test_safe_weights_of_partial(data):
    "A `partial` of a class is rebuilt with its arguments"
    path,df = data
    dls = block(path).dataloaders(df, bs=4, num_workers=0)
    learn = fusion_learner(dls, dict(audio=small, image=small), path=path)
    b = dls.valid.one_batch()
    with torch.no_grad(): assert torch.equal(load_model(save_model(learn, path/'partial'))(*b[:2]), learn.model.eval()(*b[:2]))

def test_safe_weights_that_are_not_there(data):
    path,df = data
    fn = save_model(fusion_learner(block(path).dataloaders(df, bs=4, num_workers=0), dict(audio=small, image=small), path=path), path/'there')
    with pytest.raises(FileNotFoundError, match=r'There is no .*none\.json.*`save_model` writes .*none\.safetensors.* check the path'): load_model(path/'none')
    fn.unlink()
    with pytest.raises(FileNotFoundError, match=r'There is no .*there\.safetensors.*`save_model` writes'): load_model(fn)

class small_class(ConvEncoder):
    def __init__(self, c_in): super().__init__(c_in, (4,8))

def test_table_of_calls():
    "The table in the documentation names every test of this file, and no other"
    nb = json.loads((Path(__file__).parents[1]/'nbs/03_learner.ipynb').read_text(encoding='utf-8'))
    table, = [''.join(o['source']) for o in nb['cells'] if ''.join(o['source']).startswith('## Every call')]
    tests = {k for k in globals() if k.startswith('test_')}-{'test_table_of_calls'}
    assert set(re.findall(r'`(test_\w+)`', table))==tests
