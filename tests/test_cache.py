"Sounds kept on disk: the same samples, also after a kill, with several writers, and when files change"
import os, pickle, random, signal, subprocess, sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf, torch
from fastai.data.block import CategoryBlock
from fastai.data.transforms import ColReader, ColSplitter
from mmbalance.cache import ArrayCache, ArrayFile, CacheWarning
from mmbalance.data.audio import AudioBlock, LoadAudio, MelSpecBlock, audio_presets
from mmbalance.data.pairs import MultimodalDataBlock
from mmbalance.media import read_audio, write_video

torch.set_num_threads(1)

def write(fn, seconds, sr=8000, channels=1, seed=0, **kwargs):
    sf.write(fn, np.random.default_rng(seed).uniform(-.5, .5, (round(seconds*sr), channels)), sr, **kwargs)
    return fn

def plain(x): return x.as_subclass(torch.Tensor)
def at_place(place, load, fn):
    "What `load` makes of `fn` in training when it draws `place`"
    random.random,was = (lambda: place),random.random
    try: return load(fn, split_idx=0)
    finally: random.random = was

@pytest.mark.parametrize('ext', ['wav','flac','ogg','mp3'])
@pytest.mark.parametrize('kwargs', [dict(), dict(length=.25), dict(length=.3333), dict(length=9, pad='repeat'), dict(length=.25, start=.7), dict(length=.25, channels=None), dict(sr=None, length=.2)], ids=str)
def test_same_samples_without_resampling(tmp_path, ext, kwargs):
    "Bit for bit, wherever the part lies, in the first epoch and in later ones; but an mp3 decoder that starts in the middle differs from one that came there"
    same = torch.equal if ext!='mp3' or kwargs.get('length', 9)==9 else partial(torch.allclose, atol=1e-4)
    fn = write(tmp_path/f'a.{ext}', 1.2345, channels=2)
    kwargs = dict(sr=8000) | kwargs
    without,first = LoadAudio(**kwargs),LoadAudio(**kwargs, cache=tmp_path/'cache')
    for load in first, first, LoadAudio(**kwargs, cache=tmp_path/'cache'):
        for place in 0, .123, .5, .99: assert same(at_place(place, load, fn), at_place(place, without, fn))
        x,y = load(fn, split_idx=1),without(fn, split_idx=1)
        assert same(x, y) and x.sr==y.sr==8000 and x.is_contiguous() and x.dtype==torch.float32

@pytest.mark.parametrize('channels', [1,2,None])
def test_whole_sounds_and_parts_of_resampled_ones(tmp_path, channels):
    "A whole sound is the same bit for bit; a part is that part of the whole"
    fn = write(tmp_path/'a.flac', 2.5, sr=11_025, channels=2)
    whole = LoadAudio(sr=8000, channels=channels)(fn)
    make = partial(LoadAudio, sr=8000, channels=channels, cache=tmp_path/'cache')
    for _ in range(2): assert torch.equal(make()(fn), whole)
    for _ in range(2): assert torch.equal(make(length=.5, start=.25)(fn), whole[:,2000:6000])
    n = whole.shape[1]
    assert torch.equal(make(length=.5)(fn, split_idx=1), whole[:,round((n-4000)/2):][:,:4000])
    assert torch.equal(at_place(1, make(length=.5), fn), whole[:,n-4000:])
    with pytest.raises(ValueError, match='a.flac holds no samples after second 3'): make(length=.5, start=3)(fn)

def test_sound_track_of_a_video(tmp_path):
    write_video(tmp_path/'a.mp4', np.zeros((10,32,32,3), 'uint8'), 10, .5*np.sin(np.arange(16_000)))
    for _ in range(2): assert torch.equal(LoadAudio(cache=tmp_path/'cache')(tmp_path/'a.mp4'), LoadAudio()(tmp_path/'a.mp4'))

def logged(fn, **kwargs):
    "Reads, and says so in a file"
    with open(Path(fn).parent/'log', 'a') as f: f.write(f'{Path(fn).name}\n')
    return read_audio(fn, **kwargs)

def reads(path): return (path/'log').read_text().splitlines() if (path/'log').exists() else []

@pytest.mark.parametrize('num_workers', [0,2])
def test_second_epoch_reads_no_file(tmp_path, num_workers):
    df = pd.DataFrame(dict(audio=[write(tmp_path/f'{i}.wav', .5, sr=11_025, seed=i).name for i in range(12)], label=list('ab')*6, is_valid=[i>7 for i in range(12)]))
    def epoch(**kwargs):
        torch.manual_seed(0)
        block = MelSpecBlock(sr=8000, n_mels=16, read=logged, normalize=False, **kwargs)
        dls = MultimodalDataBlock(audio=block, y=CategoryBlock, get_x=ColReader('audio', pref=tmp_path), splitter=ColSplitter()).dataloaders(df, bs=4, num_workers=num_workers, shuffle=False)
        return lambda: [b for dl in dls for b in dl]
    want = epoch()()
    (tmp_path/'log').unlink()
    with_cache = epoch(cache=tmp_path/'cache')
    first = with_cache()
    assert set(reads(tmp_path))==set(df.audio) and len(reads(tmp_path))==12
    for got in first, with_cache(), epoch(cache=tmp_path/'cache')():
        for b,c in zip(got, want):
            for x,y in zip(b, c): assert torch.equal(x, y)
    assert len(reads(tmp_path))==12

def test_changed_file_is_read_anew(tmp_path):
    load,fn = LoadAudio(sr=8000, read=logged, cache=tmp_path/'cache'),tmp_path/'a.wav'
    for seed in range(3):
        write(fn, .5+.1*seed, seed=seed)
        for _ in range(2): assert torch.equal(load(fn), LoadAudio(sr=8000)(fn))
    assert len(reads(tmp_path))==3 and len(load.cache.files())==1
    state = fn.stat()
    write(fn, .7, seed=9)  # as long as before, and so of the same size
    os.utime(fn, ns=(state.st_atime_ns, state.st_mtime_ns+1))
    assert fn.stat().st_size==state.st_size and torch.equal(load(fn), LoadAudio(sr=8000)(fn))
    fn.unlink()
    with pytest.raises(FileNotFoundError, match='There is no audio file .*a.wav'): load(fn)

def test_other_settings_are_other_entries(tmp_path):
    fn = write(tmp_path/'a.wav', .5, channels=2)
    for i,kwargs in enumerate([dict(sr=8000), dict(sr=4000), dict(sr=8000, channels=2), dict(sr=None), dict(sr=8000, read=logged)]):
        for _ in range(2): assert torch.equal(LoadAudio(**kwargs, cache=tmp_path/'cache')(fn), LoadAudio(**kwargs)(fn))
        assert len(ArrayCache(tmp_path/'cache').files())==i+1
    for kwargs in dict(length=.1), dict(start=.1), dict(pad='repeat'): LoadAudio(sr=8000, **kwargs, cache=tmp_path/'cache')(fn)
    assert len(ArrayCache(tmp_path/'cache').files())==5  # parts of the same whole

@pytest.mark.parametrize('damage', [lambda b: b[:-1], lambda b: b[:100], lambda b: b'', lambda b: b[:3000]+bytes([b[3000]^1])+b[3001:], lambda b: b.replace(b'8000', b'4000'), lambda b: b+b'more', lambda b: b[:1000]+bytes(len(b)-1000)],
    ids='cut begin empty bit head longer zeros'.split())
def test_damaged_entry_is_made_anew(tmp_path, damage):
    fn = write(tmp_path/'a.wav', .5)
    want = LoadAudio(sr=8000)(fn)
    LoadAudio(sr=8000, read=logged, cache=tmp_path/'cache')(fn)
    entry, = ArrayCache(tmp_path/'cache').files()
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    for _ in range(2): assert torch.equal(LoadAudio(sr=8000, read=logged, cache=tmp_path/'cache')(fn), want)
    assert len(reads(tmp_path))==2 and entry.read_bytes()==whole

def fill(path, barrier, i):
    "What one of several processes does"
    load = LoadAudio(sr=8000, cache=path/'cache')
    barrier.wait()
    torch.save([plain(load(path/f'{j}.wav')) for j in range(40)], path/f'{i}.pt')

def test_two_processes_fill_it_at_the_same_time(tmp_path):
    for j in range(40): write(tmp_path/f'{j}.wav', .2, sr=11_025, seed=j)
    context = get_context('fork')
    barrier = context.Barrier(3)
    procs = [context.Process(target=fill, args=(tmp_path, barrier, i)) for i in range(2)]
    for o in procs: o.start()
    barrier.wait()
    for o in procs: o.join()
    assert [o.exitcode for o in procs]==[0,0]
    want = [LoadAudio(sr=8000)(tmp_path/f'{j}.wav') for j in range(40)]
    for i in range(2):
        for x,y in zip(torch.load(tmp_path/f'{i}.pt'), want): assert torch.equal(x, y)
    files = ArrayCache(tmp_path/'cache').files()
    assert len(files)==40 and all(o.suffix=='.array' for o in files)
    for o in files: ArrayFile(o).part()

def be_killed(path, when):
    "What a process does that dies while it writes, or before it renames"
    import mmbalance.cache as c
    def die(*args): os.kill(os.getpid(), signal.SIGKILL)
    if when=='rename': c.os = type('os', (), dict(vars(os), replace=die))
    else: c._sums = die  # the part is open by then
    LoadAudio(sr=8000, cache=path/'cache')(path/'a.wav')

@pytest.mark.parametrize('when', ['write','rename'])
def test_kill_in_the_middle(tmp_path, when):
    "A writer that is killed leaves nothing that is taken for an entry; `clear` takes away what it left"
    fn = write(tmp_path/'a.wav', .5)
    proc = get_context('fork').Process(target=be_killed, args=(tmp_path, when))
    proc.start()
    proc.join()
    assert proc.exitcode==-signal.SIGKILL
    left = list((tmp_path/'cache').iterdir())
    assert len(left)==1 and left[0].suffix=='.part'
    load = LoadAudio(sr=8000, read=logged, cache=tmp_path/'cache')
    for _ in range(2): assert torch.equal(load(fn), LoadAudio(sr=8000)(fn))
    assert len(reads(tmp_path))==1 and len(load.cache.files())==2
    load.cache.clear()
    assert not list((tmp_path/'cache').iterdir())

def test_foreign_files_stay(tmp_path):
    (tmp_path/'cache/folder').mkdir(parents=True)
    foreign = ['notes.txt', 'x.array', f'{"g"*40}.array', f'{"a"*40}.array.bak', f'{"a"*39}.array', 'x.part', f'folder/{"a"*40}.array']
    for o in foreign: (tmp_path/'cache'/o).write_text(o)
    load = LoadAudio(sr=8000, cache=tmp_path/'cache')
    load(write(tmp_path/'a.wav', .1))
    load.cache.clear()
    assert sorted(str(o.relative_to(tmp_path/'cache')) for o in (tmp_path/'cache').rglob('*') if o.is_file())==sorted(foreign)

def test_a_disk_that_takes_nothing(tmp_path):
    "Says so, and goes on without"
    fn = write(tmp_path/'a.wav', .5)
    (tmp_path/'cache').write_text('a file, no folder')
    load = LoadAudio(sr=8000, length=.2, start=.1, cache=tmp_path/'cache')
    for _ in range(2):
        with pytest.warns(CacheWarning, match='a.wav could not be kept'): assert torch.equal(load(fn), LoadAudio(sr=8000, length=.2, start=.1)(fn))

def test_no_more_open_than_allowed(tmp_path):
    cache = ArrayCache(tmp_path/'cache', n_open=3)
    for _ in range(2):
        for i in range(5): assert cache.read(write(tmp_path/f'{i}.wav', .01, seed=i) if not (tmp_path/f'{i}.wav').exists() else tmp_path/f'{i}.wav', '', lambda: (np.full(4, i), {}))[0].tolist()==[i]*4
    assert len(cache.arrays)==3 and len(cache.files())==5

@pytest.mark.skipif(os.name=='nt', reason='no such limit')
def test_leaves_files_for_others(tmp_path):
    "More arrays than a process may have files open"
    code = f"""import resource, warnings, numpy as np
warnings.simplefilter('error')
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from mmbalance.cache import ArrayCache
cache = ArrayCache({str(tmp_path/'cache')!r})
for i in range(300): (fn := __import__('pathlib').Path({str(tmp_path)!r})/f'{{i}}.txt').write_text('x'); cache.read(fn, '', lambda: (np.zeros(3), {{}}))
print(len(cache.arrays))"""
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout=='32\n'

@pytest.mark.skipif(os.name=='nt', reason='no such limit')
@pytest.mark.parametrize('kept', [False,True])
def test_closes_arrays_where_too_many_files_are_open(tmp_path, kept):
    "No array is made anew and none is lost for want of open files, also where others hold most of them"
    code = f"""import os, resource, warnings, numpy as np
from pathlib import Path
from mmbalance.cache import ArrayCache
warnings.simplefilter('error')
made,files = [],[Path({str(tmp_path)!r})/f'{{i}}.txt' for i in range(300)]
for o in files: o.write_text(o.stem)
def make(fn): made.append(fn); return np.full(3, int(fn.read_text())),{{}}
def read(n_open=2000):
    cache = ArrayCache({str(tmp_path/'cache')!r}, n_open=n_open)
    for i,o in enumerate(files): assert cache.read(o, '', lambda: make(o))[0].tolist()==[i]*3
    return cache
if {kept}: read(1)
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
held = [os.open(files[0], os.O_RDONLY) for _ in range(90)]
assert len(read().arrays)>5 and made==files
"""
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.parametrize('n_open', [0,1])
def test_few_open(tmp_path, n_open):
    cache = ArrayCache(tmp_path/'cache', n_open=n_open)
    for _ in range(2): assert cache.read(write(tmp_path/'a.wav', .01), '', lambda: (np.arange(4), {}))[0].tolist()==[0,1,2,3] and len(cache.arrays)==n_open

def test_pickled_without_what_is_open(tmp_path):
    load,fn = LoadAudio(sr=8000, cache=tmp_path/'cache'),write(tmp_path/'a.wav', .5)
    load(fn)
    res = pickle.loads(pickle.dumps(load))
    assert not res.cache.arrays and torch.equal(res(fn), load(fn))

def test_where_it_can_be_asked_for(tmp_path, monkeypatch):
    "A folder, a cache, or True for fastai's data folder; readers without a name are refused"
    monkeypatch.setattr('fastai.data.external.fastai_path', lambda o: tmp_path/o)
    cache = ArrayCache(tmp_path/'cache')
    assert AudioBlock(cache=cache).type_tfms[0].cache is cache and AudioBlock().type_tfms[0].cache is None
    assert AudioBlock(cache=True).type_tfms[0].cache.folder==tmp_path/'data/mmbalance_cache'
    assert audio_presets['crema_d'](cache=str(tmp_path)).type_tfms[0].cache.folder==tmp_path
    with pytest.raises(ValueError, match='let `read` be a function that is defined in a module'): AudioBlock(cache=tmp_path, read=lambda fn: None)
    with pytest.raises(ValueError, match='let `read` be'): AudioBlock(cache=tmp_path, read=partial(read_audio, start=1))
