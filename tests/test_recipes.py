"Recipes: every one makes a learner of its data, a run can be run again from its record, and schedules are those of the papers"
import io, json, contextlib, subprocess, sys, zipfile
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from fastai.callback.core import Callback
from mmbalance.data.pairs import MultimodalDataLoaders
from mmbalance.learner import load_model
from mmbalance.recipes import Recipe, StepDecay, _as_words, cg_mnist_dls, _merged, _named, recipe, recipe_folder
from test_datasets import bits, minis  # noqa: the fixture of real clips, and the owners' layouts

torch.set_num_threads(1)
conv = 'mmbalance.layers.encoders.ConvEncoder'
reader = {'crema-d': 'crema_d', 'kinetics-sounds': 'kinetics_sounds', 'vggsound': 'vggsound', 'ave': 'ave', 'ucf-101': 'ucf101', 'clips': 'clips'}

@pytest.fixture
def quiet():
    with contextlib.redirect_stdout(io.StringIO()): yield

def digits(path, n=40):
    "MNIST's layout, with pictures of noise"
    rng = np.random.default_rng(0)
    for part in 'training','testing':
        for i in range(n):
            fn = path/part/str(i%10)/f'{i}.png'
            fn.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (28,28), dtype='uint8')).save(fn)
    return path

def test_names():
    "Each file has a title, says what is known and what is ours, and is of a method only where a paper is named"
    names = recipe()
    assert {'av-digits/ours','cg-mnist/regbn','crema-d/ogm-ge','crema-d/ours','vggsound/ogm-ge'}<=set(names)
    for o in names:
        s = recipe(o).settings
        assert all(s[k] for k in ('title','known','ours')) and callable(_named(s['data']['make'])) and ('paper' in s)==('ours' not in o.partition('/')[2])
        assert set(s)<={'title','paper','known','ours','data','model','callbacks','opt','learner','fit'}
    with pytest.raises(ValueError, match="no recipe 'crema-d/best'.*av-digits/ours"): recipe('crema-d/best')

def test_a_run_can_be_run_again_from_its_record(tmp_path, quiet):
    "The same settings and seed give the same numbers and the same weights; another seed does not"
    small = dict(fit=dict(epochs=2), data=dict(n=192))
    a = recipe('av-digits/ours', **small).run(seed=3, save=tmp_path/'runs/a', num_workers=0)
    saved = json.loads((tmp_path/'runs/a.run.json').read_text())
    assert saved==json.loads(json.dumps(a)) and saved['seed']==3 and saved['settings']['fit']['epochs']==2 and saved['settings']['data']['num_workers']==0
    b = recipe(tmp_path/'runs/a.run.json').run(save=tmp_path/'runs/b')
    assert a['results']==b['results'] and b['seed']==3 and len(a['results']['epochs'])==2
    for x,y in zip(*(load_model(tmp_path/f'runs/{o}').state_dict().values() for o in 'ab')): assert torch.equal(x, y)
    c = recipe(tmp_path/'runs/a.run.json', fit=dict(epochs=1)).run(seed=4)
    assert c['results']['epochs'][0]!=a['results']['epochs'][0] and len(c['results']['epochs'])==1
    assert set(a['versions'])=={'python','torch','torchvision','torchaudio','fastai','mmbalance','commit'} and a['versions']['torch']==torch.__version__.split('+')[0]
    assert a['data']['counts']==dict(train=1343, valid=454) and 'accuracy' in a['results']['last'] and 'audio_ratio' in a['results']['last']
    with pytest.raises(ValueError, match='no record of a run'): recipe(tmp_path/'runs/a.json')

@pytest.mark.parametrize('name', [o for o in recipe() if o.split('/')[0] in reader])
def test_from_the_owners_layout(name, tmp_path, bits, quiet):
    "From a miniature in the owner's layout to a record with protocol, checksums and counts"
    key = reader[name.split('/')[0]]
    minis[key](tmp_path, bits)
    r = recipe(name, fit=dict(epochs=1, step=1))
    r = Recipe(name, _merged(r.settings, dict(model=dict(encoders={m: conv for m in r.settings['model']['encoders']}))))
    extra = dict(valid_pct=.3) if r.settings['data'].get('valid_pct') and key!='crema_d' else {}
    rec = r.run(tmp_path, bs=2, size=32, num_workers=0, **extra)
    assert rec['data']['protocol'] and rec['data']['n_missing']==0 and sum(rec['data']['counts'].values())>=12
    assert ('test' in rec['results'])==('valid' in rec['data']['counts'] and 'test' in rec['data']['counts']) and np.isfinite(rec['results']['last']['valid_loss'])
    if name.endswith('ogm-ge'): assert set(rec['data']['counts'])=={'train','test'} and 'choose nothing by it' in rec['data']['protocol']
    if key not in ('clips','crema_d'): assert all(len(o)==64 for o in rec['data']['lists'].values()) and rec['data']['lists']

def test_missing_clips_are_in_the_record(tmp_path, bits, quiet):
    minis['kinetics_sounds'](tmp_path, bits)
    fn = next(iter(tmp_path.rglob('*.mp4')))
    fn.unlink()
    with pytest.warns(UserWarning, match='missing'): rec = recipe('kinetics-sounds/ours', model=dict(encoders=dict(audio=conv, frames=conv)), fit=dict(epochs=1)).run(tmp_path, bs=2, size=32, num_workers=0, valid_pct=.3)
    assert rec['data']['n_missing']==1 and rec['data']['missing'] and '1 clips missing' in rec['data']['protocol']

@pytest.mark.parametrize('n_valid', [0,10])
def test_cg_mnist(tmp_path, quiet, n_valid):
    rec = recipe('cg-mnist/regbn', fit=dict(epochs=1)).run(digits(tmp_path), bs=5, n_valid=n_valid, num_workers=0, save=tmp_path/'cg')
    assert rec['data']['counts']==(dict(train=30, valid=10, test=40) if n_valid else dict(train=40, test=40)) and ('test' in rec['results'])==bool(n_valid)
    assert load_model(tmp_path/'cg').head.regbn is not None
    dls = cg_mnist_dls(tmp_path, bs=5, num_workers=0)
    assert (dls.train_ds.color_classes==dls.train_ds.labels.numpy()).all() and not (dls.valid_ds.color_classes==dls.valid_ds.labels.numpy()).all()

class Rates(Callback):
    run_valid = False
    def before_fit(self): self.seen,self.modulated = [],[]
    def after_epoch(self): self.seen.append(self.opt.hypers[0]['lr'])
    def before_step(self): self.modulated.append(self.learn.ogmge.own is not None)

def test_ogm_ge_is_the_papers(tmp_path, bits, quiet):
    "Learning rate .001, a tenth after 70 of 100 epochs; torch's SGD with momentum and L2 decay on all parameters, step for step; convolutions only, in epochs 0 to 50"
    minis['crema_d'](tmp_path, bits)
    r = recipe('crema-d/ogm-ge', model=dict(encoders=dict(audio=conv, frames=conv)))
    learn = r.learner(tmp_path, bs=4, size=16, num_workers=0)
    cb = learn.ogmge
    assert (cb.alpha, cb.start, cb.end, cb.params, cb.enhance)==(.8, 0, 51, 'conv', True) and learn.wd_bn_bias and learn.dls.bs==4
    learn.add_cb(rates := Rates())
    learn.dls.train.n = 4
    s = r.settings['fit']
    with learn.no_bar(), learn.no_logging(): learn.fit(4, s['lr'], cbs=StepDecay(s['lr'], 2, s['gamma']))
    assert np.allclose(rates.seen, [1e-3,1e-3,1e-4,1e-4]) and (s['step'], s['epochs'], s['schedule'])==(70, 100, 'step')
    p,q = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    ours,theirs = learn.opt_func([[p]], lr=.1),torch.optim.SGD([q], .1, momentum=.9, weight_decay=1e-4)
    for _ in range(4):
        for o in p,q: o.grad = o.detach()**2
        ours.step(); theirs.step()
    assert torch.allclose(p, q, atol=1e-7)

def test_regbns_adam_is_torchs():
    r = recipe('cg-mnist/regbn')
    from fastai.optimizer import Adam
    kwargs = {k: v for k,v in r.settings['opt'].items() if k!='make'}
    p,q = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    ours,theirs = Adam([[p]], lr=.1, **kwargs),torch.optim.Adam([q], .1)
    for _ in range(4):
        for o in p,q: o.grad = o.detach()**2
        ours.step(); theirs.step()
    assert torch.allclose(p, q, atol=1e-6)

def test_numbers_of_the_papers():
    "What a run of each paper's recipe is made of, number by number"
    for name,alpha,n in ('crema-d/ogm-ge', .8, 1),('vggsound/ogm-ge', .1, 3):
        s = recipe(name).settings
        assert s['fit']==dict(schedule='step', epochs=100, lr=1e-3, step=70, gamma=.1) and s['opt']==dict(make='SGD', mom=.9, wd=1e-4, decouple_wd=False)
        assert (s['data']['bs'], s['data']['valid_pct'], s['data']['n_frames'])==(64, 0, n) and [(o['alpha'], o['end'], o['params']) for o in s['callbacks']]==[(alpha, 51, 'conv')]
    s = recipe('cg-mnist/regbn').settings
    assert s['fit']==dict(schedule='constant', epochs=75, lr=1e-3) and (s['data']['bs'], s['data']['var'], s['data']['n_valid'])==(50, .02, 0)

@pytest.mark.parametrize('bad', ['os.system', 'mmbalance', 'builtins.eval', 'mmbalance_x.f', 'subprocess.run'])
def test_a_recipe_runs_nobodys_code(bad):
    with pytest.raises(ValueError, match='names functions and classes of mmbalance'): _named(bad)

def test_wrong_use_is_said_before_training(tmp_path):
    with pytest.raises(ValueError, match=r'no epoch.*fit=dict\(epochs=2\)'): recipe('av-digits/ours', epoch=1)
    for name,changes,text in (('crema_d/ogm-ge', {}, 'did you mean crema-d/ogm-ge'), ('av-digits/ours', dict(fit=dict(epoch=1)), 'has epoch in its part fit'), ('av-digits/ours', dict(fit=dict(schedule='onecycle')), 'none of one_cycle, constant, step'),
        ('av-digits/ours', dict(fit=dict(schedule='step')), 'no step, gamma for its schedule'), ('av-digits/ours', dict(callbacks=dict(alpha=1)), 'a list of callbacks'), ('av-digits/ours', dict(model=dict(heads=1)), 'has heads in its part model')):
        with pytest.raises(ValueError, match=text): recipe(name, **changes)
    for fn,text,error in ('a.toml','title =','a.toml cannot be read'),('b.toml','title = "x"\n[data]\nbs = 3','has no make in its part data'),('c.json','{"a":','c.json cannot be read'),('d.json','[1]','no record of a run'):
        (tmp_path/fn).write_text(text)
        with pytest.raises(ValueError, match=error): recipe(tmp_path/fn)
    with pytest.raises(ValueError, match='needs `path`'): recipe('clips/ours').learner()
    class Never(Recipe):
        def learner(self, *args): raise AssertionError('trained')
    with pytest.raises(TypeError, match='keeps its settings as json'): Never('own', recipe('clips/ours').settings).run(tmp_path, blocks=dict(audio=print))

def test_paths_go_into_the_record(): assert _as_words(dict(data=dict(lists=[Path('a')])))==dict(data=dict(lists=['a']))

def test_recipes_ship():
    "Their folder is in the package's data"
    import tomllib
    conf = tomllib.loads((recipe_folder.parents[1]/'pyproject.toml').read_text(encoding='utf-8'))['tool']['setuptools']['package-data']['mmbalance']
    assert {p for o in conf for p in recipe_folder.parent.glob(o)}>=set(recipe_folder.rglob('*.toml'))

@pytest.mark.parametrize('key', [k for k in minis if k!='ave'])
def test_readers_as_shards(key, tmp_path, bits, quiet):
    "What a reader makes is written as shards and read again: the same classes in the same order, the same validation and test batches"
    pytest.importorskip('webdataset')
    import mmbalance.shard_loaders, mmbalance.shards  # noqa: to_shards, from_shards
    (tmp_path/'raw').mkdir()
    dls = minis[key](tmp_path/'raw', bits)(size=32, bs=2, num_workers=0)
    dls.to_shards(tmp_path/'shards', max_count=5)
    from mmbalance.data.audio import audio_presets, MelSpecBlock
    from mmbalance.data.video import FramesBlock
    from mmbalance.datasets.core import field_tfms
    from mmbalance.datasets.ucf101 import FlowBlock
    from fastai.vision.augment import FlipItem, Resize
    from fastai.data.transforms import Normalize
    from fastai.vision.core import imagenet_stats
    n = 1 if key=='crema_d' else 3
    blocks = dict(frames=FramesBlock(3), flow=FlowBlock(3)) if key=='ucf101' else dict(audio=MelSpecBlock(length=5) if key=='clips' else audio_presets[key], frames=FramesBlock(n))
    again = MultimodalDataLoaders.from_shards(tmp_path/'shards', blocks, bs=2, num_workers=0, batch_tfms=dict(frames=Normalize.from_stats(*imagenet_stats)),
        item_tfms=[Resize(32, 'squish'), FlipItem()] if key=='ucf101' else field_tfms(32))
    assert list(again.vocab)==list(dls.vocab) and [len(o.dataset) for o in again.loaders]==[len(o.dataset) for o in dls.loaders]
    if key=='clips': again[1].after_batch = again[2].after_batch = dls.valid.after_batch  # normalised by the same numbers
    for i in 1,2:
        for a,b in zip(dls.loaders[i], again.loaders[i], strict=True): assert all(torch.equal(x, y) for x,y in zip(a, b, strict=True))
