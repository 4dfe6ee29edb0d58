"Clips taken apart: the frames are those of an independent decoding, and a run that is killed at any step ends as an undisturbed one"
import hashlib, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest, soundfile as sf
from PIL import Image
from mmbalance.data import extract as one_pass
from mmbalance.media import read_audio
from mmbalance.data.extract import extract, frame_counts, needed_packets
from mmbalance.datasets.files import find_media, pick
from mmbalance.datasets.prepare import _lock, find_clashes, prepare, prepare_command, prepare_summary

av = pytest.importorskip('av')
clips = Path(__file__).parents[2]/'shared/data/clips'
needs_clips = pytest.mark.skipif(not clips.is_dir(), reason='no folder with clips')
posix = pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills need fork')

def write_clip(fn, codec='mpeg4', n=30, rate=10, size=48, sound='aac', sr=16_000, seed=0, times=None, loud=.5, flicker=True, **options):
    "A clip of noise that moves, and changes its brightness, or else each picture leans on those before; `times` are time stamps in milliseconds"
    fn.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 255, (size, 2*size, 3)).astype('uint8')
    with av.open(str(fn), 'w') as c:
        v = c.add_stream(codec, rate=1000 if times else rate, options={k.replace('_', '-') if k[:3]=='x26' else k: str(o) for k,o in options.items()})
        v.width = v.height = size
        v.pix_fmt,v.bit_rate = 'yuv420p',400_000
        a = c.add_stream(sound, rate=sr) if sound else None
        if a: a.layout = 'mono'
        for i in range(n):
            f = av.VideoFrame.from_ndarray(np.ascontiguousarray(noise[:,3*i%size:3*i%size+size]//(1+i%3 if flicker else 1)), format='rgb24')
            if times: f.pts = times[i]
            c.mux(v.encode(f))
        c.mux(v.encode())
        if not a: return fn
        fifo,x = av.AudioFifo(),(loud*32767*np.sin(.17*np.arange(n*sr//rate))).astype('int16')
        f = av.AudioFrame.from_ndarray(x[None], format='s16', layout='mono')
        f.sample_rate = sr
        fifo.write(f)
        for o in fifo.read_many(1024, partial=True): c.mux(a.encode(o))
        c.mux(a.encode())
    return fn

def tree(path): return {o.relative_to(path).as_posix(): hashlib.sha256(o.read_bytes()).hexdigest() for o in sorted(Path(path).rglob('*')) if o.is_file()}

def decoded(fn):
    "All pictures and their times, by a plain decoding of the first stream"
    with av.open(str(fn)) as c:
        v = c.streams.video[0]
        fs = [(o.time, o.to_ndarray(format='rgb24'), float(o.duration*o.time_base) if o.duration else 1/float(v.average_rate)) for o in c.decode(v)]
    return [t for t,*_ in fs],[x for _,x,_ in fs],fs[-1][0]+fs[-1][2]

def shown(times, end, fps):
    "The rule once more, moment by moment: the last picture that has come up"
    res,i = [],0
    while not i or i/fps<end-times[0]-.0005:
        res.append(max(j for j,t in enumerate(times) if t-times[0]-.0005<=i/fps or j==0))
        i += 1
    return res

# Which pictures

def test_rule_by_hand():
    assert frame_counts([.08, .48, .88, 1.28, 1.68], 2.08)==[1,0,1,0,0]
    assert frame_counts([i/25 for i in range(250)], 10)==[int(i%25==0) for i in range(250)]
    assert frame_counts([0, .1, 3.05, 3.1], 3.2)==[1,3,0,0]  # the second is on display at 1, 2 and 3 s
    assert frame_counts([5.], 5.)==[1]

def test_rule_by_moments():
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = np.cumsum(rng.choice([.0333,.0334,.04,.2,1.3], rng.integers(1, 40))).tolist()
        end,fps = times[-1]+rng.choice([.04,.9]),float(rng.choice([.3,1,2,7,25]))
        assert [i for i,k in enumerate(frame_counts(times, end, fps)) for _ in range(k)]==shown(times, end, fps)

def test_needed_packets():
    times,starts = [0,1,2,3,6,4,5,7],[1,0,0,0,1,0,0,0]
    def need(*keep): return [t for t,o in zip(times, needed_packets(times, starts, set(keep))) if o]
    assert need(1, 7)==[0,1,6,7] and need(5)==[0,1,2,3,6,4,5] and need(6)==[6] and need(2)==[0,1,2]

made = {'h264 b.mp4': dict(codec='libx264', bf=3, g=12, x264_params='b-adapt=0:scenecut=0'), 'open.mp4': dict(codec='libx264', bf=3, g=12, x264_params='open-gop=1:b-adapt=0:scenecut=0'), 'refresh.mp4': dict(codec='libx264', size=96, flicker=False, g=12, x264_params='intra-refresh=1'),
    'h264 b.avi': dict(codec='libx264', bf=2, g=12, x264_params='b-adapt=0:scenecut=0', sound='mp3'), 'h264.flv': dict(codec='libx264', bf=2, g=12, x264_params='b-adapt=0', sr=22_050), 'b.avi': dict(bf=2, g=12, sound='mp3'), 'b.mp4': dict(bf=2, g=12), 'p.avi': dict(g=12, sound='mp3'),
    'one.mpg': dict(codec='mpeg1video', rate=25, bf=2, g=12, sound='mp2'), 'two.mpg': dict(codec='mpeg2video', rate=25, bf=2, g=12, sound='mp2'), 'vp8.webm': dict(codec='libvpx', g=12, sound=None), 'vp9.webm': dict(codec='libvpx-vp9', g=12, sound=None),
    'flv1.flv': dict(codec='flv', g=12, sound='mp3', sr=22_050), 'late.mp4': dict(times=[80+40*i+(i%3)*7+500*(i>9) for i in range(30)], codec='libx264', bf=2, g=12)}

@pytest.mark.parametrize('name', made)
@pytest.mark.parametrize('threads', [1,2])
def test_same_pictures_as_a_plain_decoding(tmp_path, name, threads, monkeypatch):
    "What is left out changes nothing, and the plan comes true; bytes are those of the pictures that the rule names"
    runs,once = [],one_pass._extract
    monkeypatch.setattr(one_pass, '_extract', lambda *args: runs.append(args) or once(*args))
    try: fn = write_clip(tmp_path/name, **made[name])
    except (av.FFmpegError, ValueError) as e: pytest.skip(f'this PyAV cannot write it: {e}')
    times,pictures,end = decoded(fn)
    for fps in (2,3):
        res = extract(fn, tmp_path/f'{fps}', fps=fps, threads=threads)
        assert len(runs)==1
        extract(fn, tmp_path/f'{fps} all', fps=fps, hold=0)
        runs.clear()
        assert tree(tmp_path/f'{fps}')==tree(tmp_path/f'{fps} all')
        want,files = shown(times, end, fps),sorted((tmp_path/f'{fps}').iterdir())
        assert [o.name for o in files]==[f'{i+1:05}.jpg' for i in range(len(want))] and res['frames']==len(want)
        for i,o in zip(want, files):
            Image.fromarray(pictures[i]).save(tmp_path/'x.jpg', quality=95)
            assert o.read_bytes()==(tmp_path/'x.jpg').read_bytes(), (o, i)

def test_a_plan_that_does_not_come_true(tmp_path, monkeypatch):
    "Where a planned picture does not come out of the decoder, all are decoded"
    fn = write_clip(tmp_path/'a.mp4', g=12)
    extract(fn, tmp_path/'all', fps=2, hold=0)
    monkeypatch.setattr(one_pass, 'needed_packets', lambda times, starts, keep: [i==0 for i in range(len(times))])
    extract(fn, tmp_path/'planned', fps=2)
    assert tree(tmp_path/'planned')==tree(tmp_path/'all') and len(tree(tmp_path/'all'))==6

def test_less_is_decoded(tmp_path):
    with av.open(str(write_clip(tmp_path/'a.mp4', codec='libx264', bf=3, g=12))) as c:
        keep,needed = one_pass._plan(list(c.demux(video=0)), c.streams.video[0], 1)
    assert len(keep)==3 and sum(needed.values())<25

def test_key_frames(tmp_path):
    "Every 12th picture, where these are far enough apart; each at most once"
    fn = write_clip(tmp_path/'a.mp4', g=12, sc_threshold=10**9, bf=2)
    _,pictures,_ = decoded(fn)
    with av.open(str(fn)) as c: at = [i for i,o in enumerate(c.decode(video=0)) if o.key_frame]
    for fps,want in (10,at),(.5,at[:1]+[o for o in at if o>=20][:1]):
        assert extract(fn, tmp_path/f'{fps}', fps=fps, frames='key')['frames']==len(want)
        for i,o in zip(want, sorted((tmp_path/f'{fps}').iterdir())):
            Image.fromarray(pictures[i]).save(tmp_path/'x.jpg', quality=95)
            assert o.read_bytes()==(tmp_path/'x.jpg').read_bytes()

def test_size_and_sound(tmp_path):
    fn = write_clip(tmp_path/'a.mp4')
    res = extract(fn, tmp_path/'f', tmp_path/'a.wav', size=24, sr=8000, mono=True)
    def size(o):
        with Image.open(tmp_path/o) as im: return im.size
    assert size('f/00001.jpg')==(24,24) and sf.info(tmp_path/'a.wav').samplerate==8000 and abs(sf.info(tmp_path/'a.wav').duration-3)<.1
    extract(fn, tmp_path/'g', tmp_path/'b.wav', size=99)
    (x,sr),(y,_) = read_audio(fn),read_audio(tmp_path/'b.wav')
    assert size('g/00001.jpg')==(48,48) and sr==sf.info(tmp_path/'b.wav').samplerate and x.shape==y.shape and (x-y).abs().max()<1/32768
    assert res['sound']=='yes' and extract(write_clip(tmp_path/'s.mp4', loud=0), tmp_path/'s', tmp_path/'s.wav')['sound']=='silent'
    assert extract(write_clip(tmp_path/'n.mp4', sound=None), tmp_path/'n', tmp_path/'n.wav')['sound']=='none' and not (tmp_path/'n.wav').exists()

def test_short_of_what_it_promises(tmp_path):
    fn = write_clip(tmp_path/'a.webm', codec='libvpx', n=60, sound=None)
    fn.write_bytes(fn.read_bytes()[:fn.stat().st_size//3])
    assert 'of 6.0 s' in extract(fn, tmp_path/'f')['note']

# A folder

@pytest.fixture
def folder(tmp_path): return make_folder(tmp_path/'in')

def make_folder(path):
    write_clip(path/'a.mp4', n=12, size=32)
    write_clip(path/'b/a.avi', n=22, size=32, sound=None, seed=1)
    write_clip(path/'b/c.mp4', n=12, size=32, seed=2)
    (path/'cut.mp4').write_bytes((path/'a.mp4').read_bytes()[:1500])
    return path

def go(path, **kwargs): return prepare(path, **(dict(fps=2, jobs=1, progress=False)|kwargs))

def test_layout_and_report(folder):
    df = go(folder)
    assert list(tree(folder/'prepared'))==['audio/a.wav', 'audio/b/c.wav', *(f'frames/{o}.jpg' for o in ('a/00001','a/00002','a/00003','b/a/00001','b/a/00002','b/a/00003','b/a/00004','b/a/00005','b/c/00001','b/c/00002','b/c/00003')), 'prepared.json', 'report.csv']
    assert df.file.tolist()==['a.mp4','b/a.avi','b/c.mp4','cut.mp4'] and df.sound.tolist()==['yes','none','yes',''] and df.error.astype(bool).tolist()==[False]*3+[True]
    assert 'cut.mp4 cannot be read as video' in df.error[3] and str(folder) not in df.error[3]
    text = prepare_summary(df)
    assert '3 of 4 clips: 11 frames, 2 sounds' in text and 'without sound: b/a.avi' in text and 'failed: cut.mp4' in text

def test_processes_change_nothing(folder, tmp_path):
    go(folder, out=tmp_path/'one'); go(folder, out=tmp_path/'two', jobs=2)
    assert tree(tmp_path/'one')==tree(tmp_path/'two')

def test_what_others_made_stays(folder):
    (folder/'prepared/frames/b').mkdir(parents=True)
    (folder/'prepared/frames/b/a').write_text('mine')
    with pytest.raises(FileExistsError, match='frames/b/a; move it away'): go(folder)
    assert (folder/'prepared/frames/b/a').read_text()=='mine'
    (folder/'prepared/frames/b/a').unlink()
    (folder/'prepared/frames/note.txt').write_text('mine')
    go(folder)
    assert (folder/'prepared/frames/note.txt').read_text()=='mine'
    with pytest.raises(ValueError, match='size=None, now 16'): go(folder, size=16)
    (folder/'prepared/prepared.json').write_text('{}')
    with pytest.raises(FileExistsError, match='prepared.json was not made by this command'): go(folder)

def test_clips_of_one_name(folder):
    write_clip(folder/'a.avi', n=5, sound='mp3'); write_clip(folder/'b.mp4', n=5)
    assert find_clashes({o: o[:-4] for o in ('A.mp4','a.avi','b.mp4','b/c.mp4','d.mp4')})=={'A.mp4':'a.avi', 'a.avi':'A.mp4', 'b.mp4':'b/c.mp4', 'b/c.mp4':'b.mp4'}
    df = go(folder)
    assert df[df.error.str.contains('its name is that of')].file.tolist()==['a.avi','a.mp4','b.mp4','b/a.avi','b/c.mp4']

@pytest.mark.parametrize('first,new', [('a.mp4','A.mp4'), ('a.mp4','a/b.mp4'), ('a.mp4','a.avi'), ('b/c.mp4','b.mp4')])
@pytest.mark.parametrize('renamed', ['first','new'])
def test_clash_that_goes(tmp_path, first, new, renamed):
    "A clip that takes the name of one already made blocks nothing: either is renamed, and the files are those of a fresh run"
    src = tmp_path/'in'
    write_clip(src/first, n=5); go(src)
    if (src/new).exists(): pytest.skip('A.mp4 is a.mp4 on this disk')
    write_clip(src/new, n=5, seed=1, sound='mp3' if new=='a.avi' else 'aac')
    for _ in range(2):
        df = go(src)
        assert df.file.tolist()==sorted([first, new]) and df.error.str.contains('its name is that of').all() and list(tree(src/'prepared'))==['prepared.json','report.csv']
    old = src/dict(first=first, new=new)[renamed]
    old.rename(src/f'z{old.suffix}')
    assert go(src).error.tolist()==['','']
    go(src, out=tmp_path/'fresh')
    got,want = tree(src/'prepared'),tree(tmp_path/'fresh')
    assert got.pop('report.csv') and want.pop('report.csv') and got==want  # the report keeps the line of the clip that is gone

def test_clash_leaves_what_others_made(tmp_path):
    write_clip(tmp_path/'a.mp4', n=5); write_clip(tmp_path/'a.avi', n=5, sound='mp3')
    (tmp_path/'prepared/frames/a').mkdir(parents=True)
    (tmp_path/'prepared/frames/a/00001.jpg').write_text('mine')
    go(tmp_path); (tmp_path/'a.avi').rename(tmp_path/'c.avi')
    with pytest.raises(FileExistsError, match='frames/a; move it away'): go(tmp_path)
    assert (tmp_path/'prepared/frames/a/00001.jpg').read_text()=='mine'

def test_names_of_digits(tmp_path):
    for o in ('00001','1e3'): write_clip(tmp_path/f'{o}.mp4', n=5)
    df = go(tmp_path)
    assert df.name.tolist()==['00001','1e3'] and df.error.tolist()==['',''] and all((tmp_path/'prepared/frames'/o).is_dir() for o in df.name)

@posix
def test_names_that_are_not_utf8(tmp_path, capsys):
    good,cut = (os.fsdecode(o) for o in (b'caf\xe9.mp4', b'cut\xe9.mp4'))
    write_clip(tmp_path/'b.mp4', n=5)
    try: (tmp_path/cut).write_bytes((tmp_path/'b.mp4').read_bytes()[:500]); shutil.copy(tmp_path/'b.mp4', tmp_path/good)
    except OSError: pytest.skip('this disk takes only UTF-8')
    for _ in range(2):
        df = go(tmp_path)
        assert df.file.tolist()==['b.mp4', good, cut] and df.error.astype(bool).tolist()==[False,False,True]
    assert (tmp_path/'prepared/frames'/df.name[1]/'00001.jpg').exists()
    assert prepare_command(['clips', str(tmp_path), '--fps', '2', '--jobs', '1'])==1 and 'failed: cut?.mp4' in capsys.readouterr().out
    assert prepare_command(['clips', str(tmp_path/cut), '--jobs', '1'])==2 and 'cut?.mp4' in capsys.readouterr().err

def command(*args): return subprocess.run([sys.executable, '-W', 'error::RuntimeWarning', '-m', 'mmbalance.datasets.prepare', *map(str, args)], capture_output=True, text=True)

def test_module_is_the_command(tmp_path):
    res = command('--help')
    assert res.returncode==0 and 'usage: mmbalance-prepare' in res.stdout
    for i in range(3): write_clip(tmp_path/f'{i}.mp4', n=5)
    res = command('clips', tmp_path, '--jobs', '2')
    assert res.returncode==0 and '3 of 3 clips' in res.stdout, res.stderr
    assert command('clips', tmp_path/'none').returncode==2

def test_clip_that_changes(folder):
    first = tree(go(folder) is None or folder/'prepared')
    shutil.copy(folder/'a.mp4', folder/'cut.mp4')  # fetched again
    assert go(folder).error.tolist()==['']*4 and (folder/'prepared/audio/cut.wav').exists()
    (folder/'cut.mp4').write_bytes((folder/'a.mp4').read_bytes()[:1500])
    go(folder)
    assert tree(folder/'prepared')==first  # what was made of the whole one is gone
    (folder/'prepared/frames/a/00002.jpg').write_bytes(b'')  # as after a loss of power
    go(folder)
    assert tree(folder/'prepared')==first

def test_status(folder, capsys):
    args = [str(folder), '--fps', '2', '--jobs', '1']
    assert prepare_command(['clips', *args])==1 and 'failed: cut.mp4' in capsys.readouterr().out
    (folder/'cut.mp4').unlink()
    assert prepare_command(['clips', *args])==0
    assert prepare_command(['clips', *args, '--size', '9'])==2 and 'other settings' in capsys.readouterr().err
    assert prepare_command(['crema-d', *args])==2 and 'VideoFlash' in capsys.readouterr().err

@pytest.mark.parametrize('arg,x,want', [('fps',0,'more than 0'), ('size',-5,'at least 1 pixel'), ('quality',200,'1 to 95'), ('sr',-1,'a rate in Hz'), ('jobs',-1,'at least 1'), ('jobs',0,'at least 1')])
def test_numbers_that_make_no_sense(folder, capsys, arg, x, want):
    "They end the run before anything is written: neither all clips fail, nor is a run without processes a success"
    assert prepare_command(['clips', str(folder), f'--{arg}', str(x)])==2
    assert f'`{arg}` is {float(x) if arg=="fps" else x}; expected {want}' in capsys.readouterr().err and not (folder/'prepared').exists()

def test_where_readers_find_it(folder, tmp_path, capsys):
    "The command says so, where it is not the folder they look in by themselves"
    args = ['clips', str(folder), '--fps', '2', '--jobs', '1']
    prepare_command(args); prepare_command([*args, '--out', str(folder/'prepared')])
    assert 'Readers' not in capsys.readouterr().out
    prepare_command([*args, '--out', str(tmp_path/'else')])
    assert f"Readers find it with `prepared='{tmp_path/'else'}'`" in capsys.readouterr().out

def test_presets(tmp_path):
    write_clip(tmp_path/'VideoFlash/1001_IEO_NEU_XX.flv', codec='flv', sound='mp3', sr=22_050, n=12)
    prepare(tmp_path, 'crema-d', jobs=1, progress=False)
    assert list(tree(tmp_path/'prepared'))==['frames/1001_IEO_NEU_XX/00001.jpg','frames/1001_IEO_NEU_XX/00002.jpg','prepared.json','report.csv']
    write_clip(tmp_path/'v/a.mp4', sr=32_000)
    prepare(tmp_path/'v', 'vggsound', jobs=1, progress=False)
    assert sf.info(tmp_path/'v/prepared/audio/a.wav').samplerate==16_000

@pytest.mark.parametrize('dataset,clip', [('crema-d','VideoFlash/1001_IEO_NEU_XX.flv'), ('ucf-101','UCF-101/Archery/v_Archery_g01_c01.avi'), ('ave','AVE/abcdefghijk.mp4'), ('vggsound','train/abcdefghijk_30.mp4'), ('clips','dog/1.mp4')])
def test_readers_find_it(tmp_path, dataset, clip):
    "Under the clip's own name, and in the folders of its clip"
    write_clip(tmp_path/clip, n=5, **(dict(codec='flv', sound=None) if clip.endswith('flv') else dict(sound='mp3') if clip.endswith('avi') else {}))
    df,name = prepare(tmp_path, dataset, jobs=1, progress=False),Path(clip).stem
    media = find_media(tmp_path)
    for modality in ('frames','audio')[:2 if dataset!='crema-d' else 1]:
        assert pick(media, modality, [name])==pick(media, modality, [df.name[0]])==f'prepared/{modality}/{df.name[0]}'+'.wav'*(modality=='audio')

# Kills

driver = '''
import os, shutil, signal, sys, warnings
warnings.simplefilter('ignore')
from pathlib import Path
from mmbalance.datasets.prepare import prepare
src,out,first,step,half = Path(sys.argv[1]),sys.argv[2],int(sys.argv[3]),int(sys.argv[4]),sys.argv[5]=='half'
events = {'open','os.mkdir','os.rename','os.remove','os.rmdir'}
def child(n, to):
    "Run, and die at the n-th step that touches what is written; with `half`, after the first bytes of a file"
    seen = 0
    def hook(event, args):
        nonlocal seen
        writes = event=='open' and isinstance(args[1], str) and args[1][0] in 'wa'
        if event not in events or half and not writes or not str(args[0]).startswith(to): return
        seen += 1
        if seen!=n: return
        if half:
            fd = os.open(args[0], os.O_WRONLY|os.O_CREAT|(os.O_APPEND if args[1][0]=='a' else os.O_TRUNC)); os.write(fd, b'half,a')
        os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    prepare(src, out=to, fps=2, jobs=1, progress=False)
n = first
while True:
    to = f'{out}/{n}'
    if not (pid := os.fork()):
        try: child(n, to)
        finally: os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    if not killed: break
    prepare(src, out=to, fps=2, jobs=1, progress=False)
    n += step
print(n)
'''

@posix
@pytest.mark.parametrize('kind', ['step','half'])
def test_kill_at_each_step(folder, tmp_path, kind):
    "Each opening, folder, renaming and removal below `out` is a step; after the second run the files are those of an undisturbed one"
    go(folder, out=tmp_path/'whole')
    step = 1 if kind=='half' or os.environ.get('MMBALANCE_EVERY_STEP') else 3
    res = subprocess.run([sys.executable, '-c', driver, str(folder), str(tmp_path/'killed'), '1', str(step), kind], check=True, capture_output=True, text=True)
    n,want = int(res.stdout),tree(tmp_path/'whole')
    assert n>(15 if kind=='half' else 40)
    for i in range(1, n, step): assert tree(tmp_path/f'killed/{i}')==want, i

def test_what_a_killed_run_left_goes_into_no_other_clip(folder, tmp_path):
    "Half of a longer clip, or a sound, in the working folder that another clip has in the second run"
    go(folder, out=tmp_path/'whole')
    out = tmp_path/'second'
    for i in range(4):
        (out/f'.part/{i}/frames').mkdir(parents=True)
        for o in 'frames/00099.jpg','sound.wav': (out/f'.part/{i}'/o).write_bytes(b'left')
    shutil.copy(tmp_path/'whole/prepared.json', out)
    go(folder, out=out)
    assert tree(out)==tree(tmp_path/'whole')

def test_one_run_at_a_time(folder):
    pytest.importorskip('fcntl')
    go(folder)
    lock = _lock(folder/'prepared')
    with pytest.raises(RuntimeError, match='Another run is writing'): go(folder)
    lock.close()
    assert len(go(folder))==4

@posix
def test_kill_with_processes(folder, tmp_path):
    "The command is killed while its processes are at work, and again, and then let go"
    go(folder, out=tmp_path/'whole')
    code = f"import sys; from mmbalance.datasets.prepare import prepare_command\nif __name__=='__main__': sys.exit(prepare_command(['clips', {str(folder)!r}, '--fps', '2', '--jobs', '2', '--out', {str(tmp_path/'killed')!r}]))"
    (tmp_path/'run.py').write_text(code)
    for entry in ('.part','report.csv'):
        p = subprocess.Popen([sys.executable, str(tmp_path/'run.py')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while p.poll() is None and not (tmp_path/'killed'/entry).exists(): time.sleep(.001)
        p.send_signal(signal.SIGKILL); p.wait()
    go(folder, out=tmp_path/'killed', jobs=1)
    assert tree(tmp_path/'killed')==tree(tmp_path/'whole')

# Real clips

@needs_clips
def test_real_clips(tmp_path):
    df = prepare(clips, out=tmp_path/'out', jobs=1, size=64, progress=False).set_index('file')
    assert df[df.error!=''].index.tolist()==['truncated.mp4'] and df.sound['bikes_no_audio.mp4']=='none' and df.sound['cockatoo.mp4']=='silent'
    assert df.frames.drop('truncated.mp4').astype(int).to_dict()=={'bikes_no_audio.mp4':10, 'bunny_0_30.webm':30, 'bunny_10s.flv':10, 'chaplin.mp4':10, 'cockatoo.mp4':14, 'nasa_13013.mp4':13, 'talking_head_bbaf2n.mpg':3, 'talking_head_lbax4n.avi':3}
    assert (df.note[df.error=='']=='').all() and sf.info(tmp_path/'out/audio/nasa_13013.wav').samplerate==8000

@needs_clips
@pytest.mark.parametrize('name', ['bunny_10s.flv','nasa_13013.mp4','talking_head_bbaf2n.mpg','talking_head_lbax4n.avi'])
def test_real_pictures(tmp_path, name):
    times,pictures,end = decoded(clips/name)
    extract(clips/name, tmp_path/'f', tmp_path/'a.wav', fps=3)
    want = shown(times, end, 3)
    files = sorted((tmp_path/'f').iterdir())
    assert len(files)==len(want)
    for i,o in zip(want, files):
        Image.fromarray(pictures[i]).save(tmp_path/'x.jpg', quality=95)
        assert o.read_bytes()==(tmp_path/'x.jpg').read_bytes(), (o, i)
    (x,sr),(y,_) = read_audio(clips/name),read_audio(tmp_path/'a.wav')
    assert x.shape==y.shape and (x-y).abs().max()<=1/32767
