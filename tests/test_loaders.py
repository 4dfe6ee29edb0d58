"The factories on real and synthesized clips: a folder per class of videos, and what can be done with what they make"
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from PIL import Image
from fastai.data.transforms import get_files
from fastai.data.block import MultiCategoryBlock, RegressionBlock
from fastai.learner import load_learner
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageBlock
from mmbalance.data.audio import MelSpecBlock
from mmbalance.data.pairs import SkippedItems
from mmbalance.data.video import FramesBlock
from mmbalance.inputs import ItemError
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.learner import fusion_learner
from mmbalance.loaders import MultimodalDataLoaders
from mmbalance.media import write_video

torch.set_num_threads(1)
clips = next((o for p in Path(__file__).parents if (o := p/'shared/data/clips').is_dir()), Path('no clips'))
needs_clips = pytest.mark.skipif(not clips.is_dir(), reason='no folder with clips')
blocks = dict(audio=MelSpecBlock(length=.5, n_mels=16), frames=FramesBlock(2))
small = partial(ConvEncoder, widths=(4,8))
kinds = dict(low=(300,0), mid=(800,1), high=(2000,2))

def learner(dls, **kwargs):
    set_seed(0)
    return fusion_learner(dls, {m: small for m in dls.modalities}, **kwargs)

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Clips of one tone and one colour per class, half of them in a folder `train`"
    path,rng = tmp_path_factory.mktemp('clips'),np.random.default_rng(0)
    for part,n in ('train',4), ('valid',2):
        for label,(pitch,channel) in kinds.items():
            (path/part/label).mkdir(parents=True)
            for i in range(n):
                frames = rng.integers(0, 60, (8,32,32,3), 'uint8')
                frames[...,channel] += 150
                write_video(path/part/label/f'{i}.{"avi" if i%2 else "mp4"}', frames, 10, .5*np.sin(2*np.pi*pitch*np.arange(12_800)/16_000))
    return path

def check_predictions(learn, clip):
    "One video is as good as the same video for each modality; a missing modality is allowed"
    label,i,probs = learn.predict(clip)
    assert label==learn.dls.vocab[i] and torch.allclose(probs.sum(), torch.tensor(1.))
    for o in str(clip), (clip, clip), dict(frames=clip, audio=str(clip)): assert torch.equal(learn.predict(o)[2], probs)
    assert not torch.equal(learn.predict((clip, None))[2], probs)
    return label

def test_from_clips(made, monkeypatch):
    "Trained by folders, what is predicted for a video is its folder; also once exported"
    monkeypatch.setattr('fastai.learner.warn', lambda *args: None)  # that pickle is not safe
    dls = MultimodalDataLoaders.from_clips(made, blocks, train='train', bs=4, num_workers=0)
    assert [len(dls.train_ds), len(dls.valid_ds), *dls.vocab]==[12, 6, 'high', 'low', 'mid']
    assert {o.parent.parent.name for o in dls.valid_ds.items}=={'valid'} and dls.modalities==['audio','frames']
    assert [tuple(o.shape[1:]) for o in dls.one_batch()]==[(1,16,63), (3,2,32,32), ()]
    learn = learner(dls, path=made)
    with learn.no_bar(): learn.fit(6, 1e-2)
    assert [check_predictions(learn, o) for o in dls.valid_ds.items]==[o.parent.name for o in dls.valid_ds.items]
    learn.export('clips.pkl')
    assert torch.equal(load_learner(made/'clips.pkl').predict(dls.valid_ds.items[0])[2], learn.predict(dls.valid_ds.items[0])[2])

def test_from_clips_at_random(made):
    "Without `train`, a share of all is held out, the same for the same seed, in whatever order the folder lists its files"
    one,two = (MultimodalDataLoaders.from_clips(made/'train', blocks, valid_pct=.25, seed=3, bs=2, num_workers=0) for _ in range(2))
    assert len(one.train_ds)==9 and len(one.valid_ds)==3 and one.valid_ds.items==two.valid_ds.items
    assert set(one.train_ds.items).isdisjoint(one.valid_ds.items)

@pytest.fixture(scope='module')
def three_parts(made, tmp_path_factory):
    "Folders train, valid and test, with a class in the last that no other has"
    path = tmp_path_factory.mktemp('parts')
    for part,of in ('train','train'),('valid','valid'),('test','valid'): (path/part).mkdir(); [(path/part/o.name).symlink_to(o) for o in (made/of).iterdir()]
    (path/'test/more').symlink_to(made/'valid/low')
    return path

def test_from_clips_leaves_a_test_folder_out(three_parts):
    "As fastai's `from_folder`: what lies in neither `train` nor `valid` is not seen, and has no class; it is for `test_dl`"
    make = partial(MultimodalDataLoaders.from_clips, three_parts, blocks, bs=2, num_workers=0)
    dls = make(train='train')
    assert len(dls.loaders)==2 and list(dls.vocab)==['high','low','mid']
    def parts(dls): return [{o.relative_to(three_parts).parts[0] for o in l.dataset.items} for l in dls.loaders]
    assert parts(dls)==[{'train'},{'valid'}] and parts(make(train='train', valid='test'))==[{'train'},{'test'}]
    b = dls.test_dl(get_files(three_parts/'test/low', extensions='.mp4'), with_labels=True).one_batch()
    assert [dls.vocab[i] for i in b[2]]==['low']

def test_from_clips_asks_which_folders(three_parts, made):
    "Parts are not mixed unless that is asked for; a folder that is not there, or holds nothing, is named"
    make = partial(MultimodalDataLoaders.from_clips, three_parts, blocks, bs=2, num_workers=0)
    with pytest.raises(ValueError, match=r"holds folders test, train, valid.*pass `train='train'`.*or `valid_pct`"): make()
    dls = make(valid_pct=.25, seed=0)
    assert {o.relative_to(three_parts).parts[0] for l in dls.loaders for o in l.dataset.items}=={'train','valid','test'}
    with pytest.raises(ValueError, match='samples in train, but none in vaild; name the folders with `train` and `valid`'): make(train='train', valid='vaild')
    with pytest.raises(ValueError, match='There are no videos in'): make(train='trian', valid='vaild')

def test_from_clips_at_any_depth(made, tmp_path):
    "A class may have folders of its own, and the label may come from elsewhere"
    for part in 'train','valid':
        for o in (made/part).iterdir(): (tmp_path/part/'more').mkdir(parents=True, exist_ok=True); (tmp_path/part/'more'/o.name).symlink_to(o)
    dls = MultimodalDataLoaders.from_clips(tmp_path, blocks, train='train', bs=2, num_workers=0)
    assert [len(dls.train_ds), len(dls.valid_ds)]==[12,6]

def test_from_clips_of_no_clips(tmp_path):
    (tmp_path/'a').mkdir()
    (tmp_path/'a/notes.txt').write_text('none')
    with pytest.raises(ValueError, match='no videos in .*folder per class'): MultimodalDataLoaders.from_clips(tmp_path, blocks)

@needs_clips
def test_from_real_clips(tmp_path):
    "A miniature of real clips in seven containers, with one that is damaged"
    names = dict(talk=['talking_head_bbaf2n.mpg','talking_head_lbax4n.avi','nasa_13013.mp4'], film=['bunny_10s.flv','bunny_0_30.webm','chaplin.mp4','cockatoo.mp4'])
    for label,files in names.items():
        (tmp_path/label).mkdir()
        for o in files: (tmp_path/label/o).symlink_to(clips/o)
    make = partial(MultimodalDataLoaders.from_clips, tmp_path, blocks, item_tfms=Resize(32), valid_pct=.3, seed=1, bs=2, num_workers=0)
    dls = make()
    assert len(dls.train_ds)+len(dls.valid_ds)==7 and list(dls.vocab)==['film','talk']
    learn = learner(dls)
    with learn.no_bar(): learn.fit(1, 1e-3)
    check_predictions(learn, tmp_path/'film/chaplin.mp4')
    (tmp_path/'talk/truncated.mp4').symlink_to(clips/'truncated.mp4')
    with pytest.raises(ItemError, match='truncated.mp4'): [list(o) for o in make(drop_last=False)]
    with pytest.warns(SkippedItems, match='truncated.mp4'): assert sum(len(b[0]) for b in make(on_error='skip', seed=0, drop_last=False).train)==5

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    path,rng = tmp_path_factory.mktemp('table'),np.random.default_rng(0)
    for part in 'train','valid':
        for label,(pitch,channel) in kinds.items():
            (path/part/label).mkdir(parents=True)
            for i in range(2):
                sf.write(path/part/label/f'{i}.wav', .5*np.sin(2*np.pi*pitch*np.arange(8000)/16_000), 16_000)
                Image.fromarray(rng.integers(0, 255, (16,16,3), 'uint8')).save(path/part/label/f'{i}.png')
    files = sorted(path.rglob('*.wav'))
    df = pd.DataFrame(dict(sound=[str(o.relative_to(path)) for o in files], image=[str(o.relative_to(path).with_suffix('.png')) for o in files], label=[o.parent.name for o in files],
        tags=[f'{o.parent.name} tone' for o in files], value=rng.random(len(files)), is_valid=['valid' in o.parts for o in files]))
    df.to_csv(path/'labels.csv', index=False)
    return path,df

pairs = dict(audio=MelSpecBlock(length=.5, n_mels=16), image=ImageBlock)
def picture_of(fn): return fn.with_suffix('.png')
def label_of(fn): return fn.parent.name
def in_valid(items): return [[i for i,o in enumerate(items) if part in o.parts] for part in ('train','valid')]

def made_by(name, path, df, **kwargs):
    kwargs |= dict(bs=2, num_workers=0, shuffle=False)
    m = MultimodalDataLoaders
    if name=='from_df': return m.from_df(df, path, pairs, dict(audio='sound'), valid_col='is_valid', **kwargs)
    if name=='from_csv': return m.from_csv(path, blocks=pairs, cols=dict(audio='sound'), valid_col='is_valid', **kwargs)
    if name=='from_folder': return m.from_folder(path, pairs, dict(audio='.wav', image='.png'), **kwargs)
    return m.from_path_func(path, [path/o for o in df.sound], label_of, pairs, dict(image=picture_of), splitter=in_valid, **kwargs)

@pytest.mark.parametrize('name', ['from_csv','from_folder','from_path_func'])
def test_all_make_the_same(table, name, monkeypatch):
    "Whichever factory, the batches are those of `from_df`, and the learner can be exported"
    monkeypatch.setattr('fastai.learner.warn', lambda *args: None)  # that pickle is not safe
    path,df = table
    for one,two in zip(made_by('from_df', path, df), made_by(name, path, df)):
        for a,b in zip(one, two):
            for x,y in zip(a, b): assert torch.equal(x, y) and type(x) is type(y)
    learn = learner(made_by(name, path, df), path=path)
    item = path/df.sound[0],path/df.image[0]
    want = learn.predict(item)[2]
    learn.export('factory.pkl')
    assert torch.equal(load_learner(path/'factory.pkl').predict(item)[2], want)

@pytest.mark.parametrize('name', ['from_df','from_csv','from_folder','from_path_func'])
def test_predict_by_name(table, name):
    "Whichever factory: a modality may be None or left out, and a name that is none's is said"
    path,df = table
    learn = learner(made_by(name, path, df), path=path)
    image = path/df.image[0]
    assert torch.equal(learn.predict(dict(image=image))[2], learn.predict(dict(image=image, audio=None))[2])
    with pytest.raises(ValueError, match='There is no modality adio; the modalities are audio, image, and audio did not come'): learn.predict(dict(adio=path/df.sound[0], image=image))

def test_from_folder_leaves_other_folders_out(table):
    path,df = table
    one = MultimodalDataLoaders.from_folder(path, pairs, dict(audio='.wav', image='.png'), train='low', valid='mid', bs=2, num_workers=0)
    assert {o['audio'].parent.name for o in one.train_ds.items}=={'low'} and {o['audio'].parent.name for o in one.valid_ds.items}=={'mid'}

@pytest.mark.parametrize('col,delim,block,shape', [('tags',' ',MultiCategoryBlock,(2,4)), ('value',None,RegressionBlock,(2,)), ('label',None,None,(2,))])
def test_targets_of_a_table(table, col, delim, block, shape):
    path,df = table
    dls = MultimodalDataLoaders.from_df(df, path, pairs, dict(audio='sound'), label_col=col, label_delim=delim, bs=2, num_workers=0)
    assert dls.one_batch()[2].shape==shape and dls.one_batch()[2].is_floating_point()==(block is not None)
    with pytest.raises(ValueError, match='pass `blocks` by name'): MultimodalDataLoaders.from_df(df, path)
