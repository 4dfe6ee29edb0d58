"""Frames and sound of clips: one pass against OpenCV frame by frame with a second pass for the sound

    pip install opencv-python-headless    # only for this comparison
    python benchmarks/prepare.py CLIPS    # a folder with videos

Each side gives the same: one frame per second as JPEG of quality 95, and the sound as 16-bit wav, on the disk. Both sides decode in one thread
of one process, and take turns; the median of `--repeats` is kept. OpenCV reads every picture with `read`, as scripts do, and writes those that
`frame_counts` keeps (each picture read is compared with the one written, once); the sound is then decoded with PyAV in a pass of its own.
Writes the table that it prints to benchmarks/prepare.md."""
import argparse, os, platform, shutil, statistics, sys, tempfile, time
from pathlib import Path

import av, cv2, numpy as np, soundfile as sf
from PIL import Image
from mmbalance.data.extract import extract, frame_counts
from mmbalance.data.workers import n_cores, run_tasks
from mmbalance.datasets.prepare import find_clips

here = Path(__file__).parent

def table(rows, header): return '\n'.join('| '+' | '.join(map(str, o))+' |' for o in (header, ['---']*len(header), *rows))

def times_of(fn):
    "When each picture of a clip comes up, and when the last one ends"
    with av.open(str(fn)) as c:
        v = c.streams.video[0]
        ts = [(o.time, float(o.duration*o.time_base) if o.duration else 1/float(v.average_rate)) for o in c.decode(v)]
    return [t for t,_ in ts],sum(ts[-1])

def opened(fn, threads): return cv2.VideoCapture(str(fn), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads] if threads else [])

def their_frames(fn, folder, counts, threads=1, grab=False):
    "OpenCV, frame by frame; `grab` converts only what is kept"
    c,n = opened(fn, threads),0
    folder.mkdir(parents=True, exist_ok=True)
    for k in counts:
        if grab: c.grab()
        else: x = c.read()[1]
        if k and grab: x = c.retrieve()[1]
        for _ in range(k):
            n += 1
            cv2.imwrite(str(folder/f'{n:05}.jpg'), x, [cv2.IMWRITE_JPEG_QUALITY, 95])

def their_sound(fn, wav):
    "A pass for the sound alone"
    with av.open(str(fn)) as c:
        if not c.streams.audio: return
        a = c.streams.audio[0]
        to,out = av.AudioResampler(format='s16', layout=a.layout, rate=a.rate),None
        for f in c.decode(a):
            for o in to.resample(f):
                if out is None: out = sf.SoundFile(wav, 'w', a.rate, len(a.layout.channels), 'PCM_16')
                out.write(o.to_ndarray().reshape(-1, len(a.layout.channels)))
        if out: out.close()

def their_decoding(fn, threads=1):
    "Read every picture, decode the sound, write nothing"
    c = opened(fn, threads)
    while c.read()[0]: pass
    with av.open(str(fn)) as c:
        if c.streams.audio: any(False for _ in c.decode(audio=0))

def our_decoding(fn, every=False):
    "What `extract` decodes, without JPEG and files: the writing of both is put aside"
    from mmbalance.data import extract as E
    to_jpg,write,path = E._to_jpg,E._Sound.write,tempfile.mkdtemp()
    E._to_jpg,E._Sound.write = lambda *a: b'',lambda *a: None
    try: extract(fn, path, Path(path)/'x.wav', **({'hold': 0} if every else {}))
    finally: E._to_jpg,E._Sound.write = to_jpg,write; shutil.rmtree(path)

def same_pictures(ours, theirs):
    "Raise unless both folders show the same pictures; they convert colours and compress a little differently"
    a,b = [sorted(Path(o).iterdir()) for o in (ours, theirs)]
    assert [o.name for o in a]==[o.name for o in b], f'{ours} and {theirs} hold different frames'
    return max(np.abs(np.asarray(Image.open(o)).astype(int)-np.asarray(Image.open(p))).mean() for o,p in zip(a, b))

def contest(sides, repeats):
    "Median seconds of each side; they take turns"
    res = {k: [] for k in sides}
    for _ in range(repeats):
        for k,f in sides.items():
            t = time.perf_counter(); f()
            res[k].append(time.perf_counter()-t)
    return {k: statistics.median(v) for k,v in res.items()}

def one_clip(fn, tmp, repeats):
    times,end = times_of(fn)
    counts,o,t = frame_counts(times, end),tmp/'ours',tmp/'theirs'
    for p in (o,t): shutil.rmtree(p, ignore_errors=True); p.mkdir()
    def theirs(threads=1, grab=False): their_frames(fn, t/'frames', counts, threads, grab); their_sound(fn, t/'x.wav')
    def ours(name='frames', **kwargs): extract(fn, o/name, o/'x.wav', **kwargs)
    ours(); theirs()
    far = same_pictures(o/'frames', t/'frames')
    assert far<6, f'{fn}: frames differ by {far:.1f} of 255 in the mean'
    m = contest({'theirs': theirs, 'ours': ours, 'theirs, kept only': lambda: theirs(grab=True), 'ours, all decoded': lambda: ours(hold=0), 'key': lambda: ours('key', frames='key'),
        'theirs, decoding': lambda: their_decoding(fn), 'ours, decoding': lambda: our_decoding(fn),
        'theirs, threads': lambda: theirs(0), 'ours, threads': lambda: ours(threads=0)}, repeats)
    return len(counts),sum(counts),len(list((o/'key').iterdir())),far,m

def timed(fn, folder, wav):
    "The process, and when its work on a clip began and ended; the clock is the same in all processes"
    t = time.perf_counter()
    extract(fn, folder, wav)
    return os.getpid(),t,time.perf_counter()

def rate(spans):
    "Clips per second while all processes are at work: a clip that is cut by the begin or the end of this time counts in part"
    by = {}
    for p,a,b in spans: by.setdefault(p, []).append((a, b))
    begin,end = max(min(a for a,_ in o) for o in by.values()),min(max(b for _,b in o) for o in by.values())
    return sum(max(0, min(b, end)-max(a, begin))/(b-a) for _,a,b in spans)/(end-begin)

def scaling(clips, tmp, copies):
    "Clips per second with 1, 2, ... processes"
    todo,rows = [(o, tmp/f'{i}_{o.stem}', tmp/f'{i}_{o.stem}.wav') for i in range(copies) for o in clips],[]
    for n in sorted({1, *(2**i for i in range(1, 10) if 2**i<=n_cores()), n_cores()}): rows.append((n, rate([t for _,t in run_tasks(timed, todo, n)])))
    return [[n, f'{r:.1f}', f'{r/rows[0][1]:.2f}'] for n,r in rows]

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('clips')
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--copies', type=int, default=4, help='of each clip, to see how processes scale')
    args = p.parse_args()
    cv2.setNumThreads(1)
    base,names = find_clips(args.clips, Path(args.clips)/'prepared')
    rows,good,ratios = [],[],[]
    for o in names:
        try: times_of(base/o); good.append(o)
        except av.FFmpegError as e: print(f'{o} is left out: {e}', file=sys.stderr)
    with tempfile.TemporaryDirectory() as tmp:
        scale = scaling([base/o for o in good], Path(tmp), args.copies)  # first, so that one process is as fresh as several
        for o in good:
            n,kept,keys,far,m = one_clip(base/o, Path(tmp), args.repeats)
            ratios.append(r := [m['theirs']/m['ours'], m['theirs, kept only']/m['ours'], m['theirs']/m['ours, all decoded'], m['theirs, decoding']/m['ours, decoding'], m['theirs']/m['key'], m['theirs, threads']/m['ours, threads']])
            rows.append([o, n, kept, f"{1e3*m['theirs']:.0f}", f"{1e3*m['ours']:.0f}", *(f'{x:.2f}' for x in r[:4]), f"{1e3*m['key']:.0f}", f'{r[4]:.1f}', keys, f'{r[5]:.2f}'])
            print(rows[-1], flush=True)
    rows.append(['median','','','','', *(f'{statistics.median(x):.2f}' for x in list(zip(*ratios))[:4]), '', f'{statistics.median([r[4] for r in ratios]):.1f}', '', f'{statistics.median([r[5] for r in ratios]):.2f}'])
    text = f'One frame per second (JPEG, quality 95) and the sound (wav, 16 bits) of each clip, written to disk; ms, median of {args.repeats} in turns; one thread and one process a side unless said otherwise; ' \
        f'PyAV {av.__version__}, OpenCV {cv2.__version__}, {platform.machine()}, {n_cores()} cores.\n\n' \
        'The baseline is OpenCV with `read` for every picture, then a pass for the sound. "kept only": OpenCV converts only what is kept (`grab`, `retrieve`). "all decoded": this library without leaving out what no kept picture needs. ' \
        '"decoding": both without JPEG and files. "key": key frames only, which are other pictures. "threads": both with their default number of decoder threads, one per core.\n\n' \
        + table(rows, ['clip','pictures','frames','OpenCV','here','times faster','vs kept only','all decoded','decoding','key, ms','key, times','key frames','threads']) \
        + '\n\nClips per second while all processes are at work:\n\n' + table(scale, ['processes','clips per second','times one'])
    print(text)
    (here/'prepare.md').write_text(text+'\n', encoding='utf-8')
