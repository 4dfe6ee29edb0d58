"Shards: the same samples as from files, each once per epoch for any workers and processes, and the same bytes after a stop"
import json, os, random, sys, threading, types, warnings
from functools import partial
from multiprocessing import get_context
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from PIL import Image
from fastai.callback.core import Callback, CancelFitException
import fastai.callback.schedule  # fit_one_cycle
from fastai.data.block import CategoryBlock, MultiCategoryBlock, RegressionBlock, TransformBlock
from fastai.data.transforms import ColReader, ColSplitter
from fastai.learner import load_learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize
from fastai.vision.data import ImageBlock
from fastcore.basics import noop
pytest.importorskip('webdataset')
from mmbalance.data.audio import AudioBlock, MelSpecBlock
from mmbalance.data.av_digits import GreyImageBlock
from mmbalance.data.pairs import MultimodalDataBlock, MultimodalDataLoaders, SkippedItems
from mmbalance.data.video import FramesBlock
from mmbalance.inputs import ItemError
from mmbalance.layers.encoders import ConvEncoder
from mmbalance.learner import fusion_learner
from mmbalance.shard_reader import Shards, epoch_order
from mmbalance import shard_loaders, shard_reader, shards as shards_module

torch.set_num_threads(1)
clips = next((o for p in Path(__file__).parents if (o := p/'shared/data/clips').is_dir()), Path('no clips'))

@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    "73 sounds and pictures, 12 of them for validation; the sound of item i says i"
    path,rng = tmp_path_factory.mktemp('pairs'),np.random.default_rng(0)
    for i in range(73):
        sf.write(path/f'{i}.wav', np.full(400, i/1000), 8000, subtype='FLOAT')
        Image.fromarray(rng.integers(0, 255, (12,12,3), dtype='uint8')).save(path/f'{i}.png')
    return path,pd.DataFrame(dict(audio=[f'{i}.wav' for i in range(73)], image=[f'{i}.png' for i in range(73)],
        label=[['high','low','mid'][i%3] for i in range(73)], is_valid=[i%6==5 for i in range(73)]))

def block(path, **kwargs):
    kwargs = dict(audio=AudioBlock(sr=8000), image=GreyImageBlock(noise=1.), y=CategoryBlock) | kwargs
    return MultimodalDataBlock(get_x=[ColReader('audio', pref=path), ColReader('image', pref=path)], splitter=ColSplitter(), **kwargs)

@pytest.fixture(scope='module')
def shards(pairs, tmp_path_factory):
    path,df = pairs
    return block(path).to_shards(df, tmp_path_factory.mktemp('shards')/'pairs', max_count=10)

def stream(path, shards, blocks={}, **kwargs): return block(path, **blocks).shard_dataloaders(shards, **(dict(num_workers=0) | kwargs))
def numbers(batches): return [round(float(o)*1000) for b in batches for o in b[0][:,0,0]]
def files(path): return {o.name: o.read_bytes() for o in Path(path).iterdir()}

@pytest.fixture
def server(shards):
    class Handler(SimpleHTTPRequestHandler):
        cut,asked = {},[]  # file -> bytes after which the connection breaks, once
        def log_message(self, *args): pass
        def do_GET(self):
            Handler.asked.append(Path(self.path).name)
            if not (n := Handler.cut.pop(Path(self.path).name, None)): return super().do_GET()
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200); self.send_header('Content-Length', str(len(data))); self.end_headers()
            self.wfile.write(data[:n]); self.close_connection = True
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=shards.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/{shards.name}',Handler
    server.shutdown(); server.server_close()

def test_bytes_labels_and_vocab(pairs, shards):
    "A shard has the files' bytes; classes, lengths and validation batches are those of plain files"
    path,df = pairs
    plain,dls = block(path).dataloaders(df, bs=8, num_workers=0), stream(path, shards, bs=8)
    assert list(dls.vocab)==list(plain.vocab) and dls.c==3 and (len(dls.train_ds), len(dls.valid_ds))==(61, 12)==(len(plain.train_ds), len(plain.valid_ds))
    for s in Shards(shards):
        assert bytes(s.inputs['audio'])==(path/s.row['audio']).read_bytes() and bytes(s.inputs['image'])==(path/s.row['image']).read_bytes()
        assert s.targets==[df.label[int(s.row['audio'][:-4])]]
    for a,b in zip(plain.valid, dls.valid, strict=True):
        for x,y in zip(a, b, strict=True): assert type(x)==type(y) and torch.equal(x, y)

@pytest.mark.parametrize('workers', [0,1,3])
def test_an_epoch_has_each_sample_once(pairs, shards, workers):
    path,df = pairs
    dls = stream(path, shards, bs=4, num_workers=workers, buffer=7)
    train,valid = df.index[~df.is_valid],df.index[df.is_valid]
    epochs = [numbers(dls.train.new(drop_last=False)) for _ in range(2)]
    for o in epochs: assert sorted(o)==list(train)
    assert epochs[0]!=epochs[1] and epochs[0]!=sorted(epochs[0])
    assert numbers(dls.valid)==list(valid)  # in order
    assert len(numbers(dls.train))==60 and len(list(dls.train))==len(dls.train)==15

@pytest.mark.parametrize('n,per_shard', [(1,10), (7,3), (61,10), (64,8), (103,11)])
@pytest.mark.parametrize('world', [1,2,3,5])
@pytest.mark.parametrize('workers', [1,2,4])
def test_order(n, per_shard, world, workers):
    "Each sample once over processes and workers, whatever the counts"
    runs,buffer,bs = [list(range(k, min(n, k+per_shard))) for k in range(0, n, per_shard)],5,4
    kwargs = dict(seed=3, bs=bs, workers=workers, buffer=buffer, world=world)
    assert sorted(epoch_order(runs, **kwargs))==list(range(n))
    parts = [epoch_order(runs, rank=r, **kwargs) for r in range(world)]
    assert sorted(sum(parts, []))==list(range(n)) and max(map(len, parts))-min(map(len, parts))<=1

@pytest.mark.parametrize('buffer', [1,5,40])
@pytest.mark.parametrize('workers', [1,3])
def test_a_worker_holds_no_more_than_its_buffer(shards, monkeypatch, buffer, workers):
    "Of what was read no more than `buffer` samples wait to be given out, and no shard is read twice by a worker, nor by two but for the seams"
    read,scanned = [],[]
    scan = Shards._scan_shard
    def counting(self, s, wanted):
        scanned.append(s)
        for o in scan(self, s, wanted): read.append(o); yield o
    monkeypatch.setattr(Shards, '_scan_shard', counting)
    order = epoch_order([list(range(k, min(61, k+10))) for k in range(0, 61, 10)], 1, bs=4, workers=workers, buffer=buffer)
    for w in range(workers):
        read.clear(); mine = [i for k,i in enumerate(order) if k//4%workers==w]
        for n,_ in enumerate(Shards(shards).read(mine)): assert len(read)-n<=buffer+1
        assert n+1==len(mine)
    assert len(scanned)<=7+workers-1

def test_processes(pairs, shards):
    "With `rank`, processes share an epoch: together they have each sample once; with incomplete batches dropped, all take as many steps"
    path,df = pairs
    dls = [stream(path, shards, bs=7, num_workers=2*(r==0), rank=r, world=3) for r in range(3)]
    assert [len(o.train) for o in dls]==[2]*3==[len(list(_seeded(o.train))) for o in dls]
    got = [numbers(_seeded(o.train.new(drop_last=False))) for o in dls]
    assert sorted(sum(got, []))==list(df.index[~df.is_valid]) and [len(o) for o in got]==[20,20,21]
    assert sum((numbers(o.valid) for o in dls), [])==list(df.index[df.is_valid]) and [len(o.valid) for o in dls]==[1]*3

def _seeded(dl, seed=5):
    dl.rng = random.Random(seed)
    return dl

def test_fastais_processes(pairs, shards, monkeypatch):
    "fastai's `DistributedDL` repeats as many samples as equal parts need, and no more"
    for o in 'accelerate','accelerate.utils': monkeypatch.setitem(sys.modules, o, types.SimpleNamespace(Accelerator=object, write_basic_config=None))
    from fastai.distributed import DistributedDL
    class Alone(DistributedDL):
        def _broadcast(self, t, rank): return t
    path,df = pairs
    got = []
    for r in range(3):
        dl = _seeded(stream(path, shards, bs=4, drop_last=False, world=3).train)
        got += numbers(Alone(dl, rank=r, world_size=3))
    assert len(got)==63 and set(got)==set(df.index[~df.is_valid])

@pytest.mark.parametrize('name', ['a.wav','a.M4A','a.aac','a.opus','a.mp4','a.png','a.gif','a.wav#t=1,2'])
def test_a_file_that_is_not_there_is_no_text(tmp_path, name):
    "A path as text is taken for a file by its extension, whatever the library reads"
    with pytest.raises(FileNotFoundError, match=f'There is no file .*{name}'): shards_module._stored('audio', str(tmp_path/name))
    assert shards_module._stored('text', 'a#t=1 in words')==({}, dict(value='a#t=1 in words'))

def test_any_order(shards):
    items = Shards(shards)
    want = [70,3,3,64,0,12,3]
    assert [o.where.split()[0] for o in items.read(want)]==[f'{i-61 if i>60 else i:09d}' for i in want]
    assert [o.where for o in items[61:65]]==[items[i].where for i in (61,62,63,64)] and len(items[61:65])==4
    assert items[-1].where==items[72].where

def killed(av, df, path, at):
    "Write shards in a process that is gone, without a goodbye, when it reads file number `at`"
    read,calls = shards_module._read,[]
    def stopping(o):
        calls.append(o)
        return os._exit(9) if len(calls)==at else read(o)
    def write():
        shards_module._read = stopping
        av.to_shards(df, path, max_count=10)
    p = get_context('fork').Process(target=write)
    p.start(); p.join()
    assert p.exitcode==9

@pytest.mark.parametrize('stop', [0,2,5])
def test_a_killed_run_goes_on(pairs, tmp_path, monkeypatch, stop):
    "Killed in the middle of any shard and begun again, the files are those of an undisturbed run, byte for byte"
    path,df = pairs
    whole = files(block(path).to_shards(df, tmp_path/'whole', max_count=10))
    killed(block(path), df, tmp_path/'parts', stop*20+7)
    with pytest.raises(ValueError, match='incomplete'): stream(path, tmp_path/'parts')
    assert len(list((tmp_path/'parts').glob('*.tar')))==stop and len(list((tmp_path/'parts').glob('*.part')))==1
    calls,read = [],shards_module._read
    monkeypatch.setattr(shards_module, '_read', lambda o: calls.append(o) or read(o))
    block(path).to_shards(df, tmp_path/'parts', max_count=10)
    assert files(tmp_path/'parts')==whole and len(calls)==2*(73-10*stop)

@pytest.mark.parametrize('complete', [False,True])
@pytest.mark.parametrize('damage', [lambda x: b'', lambda x: bytes(len(x)), lambda x: x[:5000], lambda x: x[:10_240], lambda x: x[:-1], lambda x: x[:10_240]+bytes(len(x)-10_240)])
def test_a_shard_that_lost_its_end_is_written_again(pairs, tmp_path, damage, complete):
    "As after a power cut; the others are left as they are"
    path,df = pairs
    whole,fn = files(block(path).to_shards(df, tmp_path, max_count=10)),tmp_path/'train-000001.tar'
    times = {o: o.stat().st_mtime_ns for o in tmp_path.glob('*.tar') if o!=fn}
    fn.write_bytes(damage(fn.read_bytes()))
    if not complete: (tmp_path/'index.json').write_text(json.dumps(json.loads(whole['index.json']) | dict(complete=False, parts={})))
    block(path).to_shards(df, tmp_path, max_count=10)
    assert files(tmp_path)==whole and times=={o: o.stat().st_mtime_ns for o in times}

def test_other_data_are_left_alone(pairs, tmp_path):
    path,df = pairs
    block(path).to_shards(df, tmp_path, max_count=10)
    before = files(tmp_path)
    for other in df[:50], df.assign(label='low'), df.assign(is_valid=[i%6==0 for i in range(73)]):
        with pytest.raises(FileExistsError, match='other data or another split'): block(path).to_shards(other, tmp_path, max_count=10)
    with pytest.raises(FileExistsError): block(path).to_shards(df, tmp_path, max_count=20)
    assert files(tmp_path)==before

def test_max_size(pairs, tmp_path):
    path,df = pairs
    size = sum((path/c).stat().st_size for c in (df.audio[0], df.image[0]))
    block(path).to_shards(df, tmp_path, max_size=int(size*5.5))
    assert {o['n'] for o in json.loads((tmp_path/'index.json').read_text())['parts']['train'][:-1]}=={5}

def test_from_an_address(pairs, shards, server):
    (address,_),(path,df) = server,pairs
    a,b = (stream(path, o, bs=8, num_workers=2, buffer=20) for o in (shards, address))
    for x,y in zip(_seeded(a.train), _seeded(b.train), strict=True): assert all(torch.equal(i, j) for i,j in zip(x, y))
    assert numbers(b.valid)==list(df.index[df.is_valid])

def test_a_broken_connection_is_made_again(shards, server, monkeypatch):
    address,handler = server
    monkeypatch.setattr(shard_reader.time, 'sleep', lambda s: None)
    n = (shards/'train-000000.tar').stat().st_size
    for cut in n//3, n//2, 1000:
        handler.cut['train-000000.tar'],handler.asked[:] = cut,[]
        assert [o.inputs for o in Shards(address).read(range(10))]==[o.inputs for o in Shards(shards).read(range(10))]
        assert handler.asked.count('train-000000.tar')==2
        handler.cut['train-000000.tar'] = cut
        assert sorted(i for i,_ in Shards(address)._scan_shard(0, set(range(10))))==list(range(10))  # none twice
    with pytest.raises(FileNotFoundError, match='index.json cannot be read.*404'): Shards(address+'-no')

@pytest.mark.parametrize('share', [.1,.5,.9])
def test_a_shard_cut_short_is_named(pairs, tmp_path, share):
    path,df = pairs
    block(path).to_shards(df, tmp_path, max_count=30)
    fn = tmp_path/'train-000001.tar'
    fn.write_bytes(fn.read_bytes()[:int(share*fn.stat().st_size)])
    with pytest.raises(ValueError, match='train-000001.tar cannot be read to its end'): list(Shards(tmp_path).read(range(30, 60)))
    with pytest.raises(ValueError, match='train-000001.tar cannot be read to its end'): list(stream(path, tmp_path, bs=4, buffer=100).train)

def learner(dls, **kwargs):
    set_seed(1, reproducible=True)
    return fusion_learner(dls, dict(audio=ConvEncoder, image=ConvEncoder), opt_func=partial(SGD, mom=.9), **kwargs)

def mel(): return dict(audio=MelSpecBlock(sr=8000, n_mels=16, n_fft=128))

def test_learn_show_export_predict(pairs, shards, tmp_path):
    path,df = pairs
    dls = MultimodalDataLoaders.from_shards(shards, dict(mel(), image=GreyImageBlock()), bs=8, path=tmp_path, num_workers=0)
    learn = learner(dls)
    with learn.no_bar(): learn.fit_one_cycle(2, 1e-2)
    plain = block(path, **mel(), image=GreyImageBlock()).dataloaders(df, bs=8, num_workers=0)
    plain.valid.after_batch = dls.valid.after_batch  # normalised by the same numbers
    assert torch.tensor(learn.validate()).allclose(torch.tensor(learn.validate(dl=plain.valid)))
    dls.show_batch(max_n=2); learn.show_results(max_n=2)
    learn.export('l.pkl')
    item = dict(audio=path/'3.wav', image=path/'3.png')
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); loaded = load_learner(tmp_path/'l.pkl')  # fastai warns of pickle
    assert torch.equal(loaded.predict(item)[2], learn.predict(item)[2])
    with learn.no_bar():
        assert torch.allclose(learn.get_preds(dl=dls.test_dl([item]))[0][0], learn.predict(item)[2], atol=1e-6)
        assert torch.allclose(learn.get_preds(dl=dls.test_dl([Shards(shards)[5]]))[0][0], learn.predict({m: path/Shards(shards)[5].row[m] for m in item})[2], atol=1e-6)

class StopAt(Callback):
    "Stops a fit after `n` batches, and keeps where the epoch stands"
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.training and self.iter+1==self.n: self.state = self.dls.train.state_dict(); self.learn.save('stopped'); raise CancelFitException

@pytest.mark.parametrize('n,workers,epochs', [(1,0,2), (4,2,1), (6,0,1)])
def test_goes_on_in_the_middle_of_an_epoch(pairs, shards, tmp_path, n, workers, epochs):
    "An epoch that is stopped and gone on with, by other workers, ends with the same weights, bit for bit; by as many workers the epochs after it too"
    path,df = pairs
    def fresh(num_workers):
        set_seed(1)  # the batch that normalises
        learn = learner(stream(path, shards, mel(), bs=8, buffer=9, num_workers=num_workers), path=tmp_path, model_dir='.')
        _seeded(learn.dls.train)
        return learn
    def weights(learn): return torch.cat([o.detach().flatten() for o in learn.model.parameters()])
    whole,stopped,rest = fresh(0),fresh(0),fresh(workers)
    with whole.no_bar(), stopped.no_bar(), rest.no_bar():
        whole.fit(epochs, 1e-2)
        stopped.fit(1, 1e-2, cbs=(stop := StopAt(n)))
        with warnings.catch_warnings(): warnings.simplefilter('ignore', DeprecationWarning); rest.load('stopped', with_opt=True)  # fastai reads numpy's old names
        state = json.loads(json.dumps(stop.state))
        rest.dls.train.load_state_dict(state)
        rest.dls.train.one_batch()
        assert len(rest.dls.train)==7-n
        rest.dls.train.rng = random.Random(0)  # the state brings its own
        rest.fit(epochs, 1e-2, reset_opt=False)
    assert len(rest.dls.train)==7 and torch.equal(weights(whole), weights(rest))
    with pytest.raises(ValueError, match='batches of 8 in 1 processes'): stream(path, shards, bs=4).train.load_state_dict(state)
    with pytest.raises(ValueError, match='no epoch to go on with'): fresh(0).dls.valid.state_dict()

class Number:
    "A block's transform: text or an array to a number"
    def __call__(self, o): return torch.tensor(float(np.sum([ord(c) for c in o] if isinstance(o, str) else o)))

def both(path, av, df):
    "Validation batches from files and from shards"
    av.to_shards(df, path)
    return [[o for b in dls.valid for o in b] for dls in (av.dataloaders(df, bs=2, num_workers=0), av.shard_dataloaders(path, bs=2, num_workers=0))]

@pytest.mark.parametrize('y,col,delim', [(MultiCategoryBlock, 'tags', ' '), (RegressionBlock, 'number', None), (CategoryBlock, 'i', None)])
def test_folders_arrays_text_and_targets(tmp_path, y, col, delim):
    "Folders of frames, arrays and text are stored too; targets may be several, or numbers"
    for k in range(4):
        (tmp_path/f'c{k}').mkdir()
        for i in range(12): Image.new('RGB', (8,8), (20*i,40*k,0)).save(tmp_path/f'c{k}/{i}.png')
    df = pd.DataFrame(dict(i=[0,1,2,1], tags=['a b','b','c','a'], number=[.5,1.,2.,3.], text=['one','two','three','four words of text'], is_valid=[0,0,0,1]))
    av = MultimodalDataBlock(frames=FramesBlock(3), array=TransformBlock(type_tfms=Number()), text=TransformBlock(type_tfms=Number()), y=y,
        get_x=[lambda o: tmp_path/f'c{o.i}', lambda o: np.arange(o.i+3.), ColReader('text')], get_y=ColReader(col, label_delim=delim), splitter=ColSplitter())
    plain,streamed = both(tmp_path/'shards', av, df)
    assert len(plain)==4 and all(type(a)==type(b) and torch.equal(a, b) for a,b in zip(plain, streamed))

@pytest.mark.skipif(not clips.is_dir(), reason='no folder with clips')
def test_a_clip_is_stored_once(tmp_path):
    "Sound and frames of a clip come from the one copy of it"
    files = [clips/o for o in ('bunny_10s.flv','talking_head_lbax4n.avi','talking_head_bbaf2n.mpg')]
    av = MultimodalDataBlock(audio=MelSpecBlock(length=2), frames=FramesBlock(2), y=CategoryBlock, get_x=[noop, noop], get_y=lambda o: o.stem, item_tfms=Resize(32), splitter=lambda o: ([0,1,2],[0]))
    plain,streamed = both(tmp_path/'shards', av, files)
    assert all(torch.equal(a, b) for a,b in zip(plain, streamed))
    assert (tmp_path/'shards/train-000000.tar').stat().st_size < sum(o.stat().st_size for o in files)*1.1

def test_what_cannot_be_stored_or_loaded_is_named(pairs, shards, tmp_path):
    path,df = pairs
    with pytest.raises(ItemError, match=r'Row 4 \(audio=gone.wav.*There is no file .*gone.wav'): block(path).to_shards(df.assign(audio=[f'{i}.wav' if i!=4 else 'gone.wav' for i in range(73)]), tmp_path/'a')
    with pytest.raises(ItemError, match="A shard holds files.*<object"): MultimodalDataBlock(audio=AudioBlock, y=CategoryBlock, get_items=list, get_x=dict(audio=noop), get_y=noop).to_shards([object()]*4, tmp_path/'b')
    with pytest.raises(ValueError, match='the shards.*audio, image'): MultimodalDataLoaders.from_shards(shards, dict(audio=AudioBlock))
    with pytest.raises(ValueError, match='1 targets, but the block 0'): MultimodalDataLoaders.from_shards(shards, dict(audio=AudioBlock, image=ImageBlock), y_block=None)
    with pytest.raises(FileNotFoundError, match='index.json'): MultimodalDataLoaders.from_shards(tmp_path, dict(audio=AudioBlock))

def test_a_bad_file_is_named_or_skipped(pairs, tmp_path):
    path,df = pairs
    (path/'bad.wav').write_bytes(b'RIFF, but no more')
    df = df.assign(audio=[f'{i}.wav' if i!=4 else 'bad.wav' for i in range(73)])
    block(path).to_shards(df, tmp_path)
    with pytest.raises(ItemError, match='of .*train-000000.tar.*bad.wav cannot be read as audio'): list(stream(path, tmp_path, bs=8).train)
    with pytest.warns(SkippedItems, match='1 of 61 training items were skipped'): assert len(numbers(stream(path, tmp_path, dict(on_error='skip'), bs=8, drop_last=False).train))==60

def test_words_and_long_text_are_stored():
    "What is no file is text, unless it has a medium's extension"
    for o in 'Tripadvisor.com', 'word '*200, 'e.g. this': assert shards_module._stored('text', o)==({}, dict(value=o))
    with pytest.raises(FileNotFoundError, match='no file a b.wav'): shards_module._stored('audio', 'a b.wav')

def test_parts_by_any_name(tmp_path):
    "The first one is for training, whatever its name; a name that begins like another is no part of it"
    items = [(str(i), i%2) for i in range(12)]
    path = shards_module.write_shards(dict(test2=items, test=items[:4]), [lambda o: o[0], lambda o: o[1]], ['text'], tmp_path/'s', max_count=5)
    index = json.loads((path/'index.json').read_text(encoding='utf-8'))
    assert [sum(o['n'] for o in index['parts'][k]) for k in ('test2','test')]==[12,4] and index['targets']==[[0,1]]
