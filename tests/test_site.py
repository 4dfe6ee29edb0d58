"The site builds without a warning, loads nothing from the network, has no dead link; search, players and pictures work in a browser"
import json, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse
import pytest
from mmbalance._show import param_table
from mmbalance.diagnose import diagnose

root = Path(__file__).parents[1]
chromium = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
needs_browser = pytest.mark.skipif(not chromium, reason='needs Chromium')

class Page(HTMLParser):
    "The ids, links and resources of a page"
    def __init__(self, text):
        super().__init__()
        self.ids,self.links,self.resources = set(),[],[]
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        self.ids |= {d.get('id')} | ({d.get('name')} if tag=='a' else set())
        if tag=='a' and d.get('href'): self.links.append(d['href'])
        if tag in ('script','img','audio','source','iframe') and d.get('src'): self.resources.append(d['src'])
        if tag=='link' and d.get('rel') in ('stylesheet','preload','icon'): self.resources.append(d['href'])

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site, built from a copy of the sources"
    repo = tmp_path_factory.mktemp('site')/'repo'
    shutil.copytree(root, repo, ignore=shutil.ignore_patterns('.git', '.venv', '_proc', '_build', '*.egg-info', '__pycache__'))
    done = subprocess.run([sys.executable, '-W', 'ignore', 'docs/make.py'], cwd=repo, capture_output=True, text=True)
    assert done.returncode==0, done.stdout[-2000:]+done.stderr[-2000:]
    for o in 'README.md', 'index_files':  # what the repository holds is what the sources give
        for f in ([repo/o] if (repo/o).is_file() else (repo/o).iterdir()): assert f.read_bytes()==(root/f.relative_to(repo)).read_bytes(), f'{f.name} is stale: run `python docs/make.py`'
    return repo/'_build/html'

@pytest.fixture(scope='session')
def pages(site): return {f: Page(f.read_text(encoding='utf-8')) for f in site.rglob('*.html')}

def test_no_dead_link(pages):
    for f,page in pages.items():
        for link in page.links:
            url = urlparse(link)
            if url.scheme: continue
            target = (f.parent/unquote(url.path)).resolve() if url.path else f
            assert target.exists(), f'{f.name} links to {link}, which is not there'
            if url.fragment and target.suffix=='.html' and f.name!='genindex.html': assert unquote(url.fragment) in pages[target].ids, f'{f.name} links to {link}, but there is no such place'

def test_path_of_a_newcomer(site, pages):
    "Home leads to the quick start, that to the callback it uses; every page to the search and to the data sets"
    def leads(page, to): return any(o.split('?')[0].removeprefix('../')==to for o in pages[site/page].links)
    assert leads('index.html', 'tutorials/quick_start.html') and leads('tutorials/quick_start.html', 'callback/ogm_ge.html#ogmge')
    for page in walk: assert leads(page, 'datasets/crema_d.html') or page=='datasets/crema_d.html', page
    for page in walk: assert 'search.html' in (text := (site/page).read_text(encoding='utf-8')) and 'name="q"' in text, page

def test_nothing_from_the_network(pages):
    for f,page in pages.items():
        for o in page.resources: assert urlparse(o).scheme in ('', 'data'), f'{f.name} loads {o}'

def test_pictures_and_players(site, pages):
    sources = pages[site/'index.html'].resources
    assert sum(o.startswith('data:audio/wav') for o in sources)==3 and sum(o.startswith(('data:image/png', '_images/')) for o in sources)>=5

def dom(page, *args): return subprocess.run([chromium, '--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=8000', *args, '--dump-dom', page],
    capture_output=True, text=True, check=True, timeout=120).stdout

@needs_browser
@pytest.mark.parametrize('query,page', [('regbn', 'layers/regbn.html'), ('ogmge', 'callback/ogm_ge.html'), ('digits', 'data/av_digits.html')])
def test_search(site, query, page):
    "In the list of results; the contents beside it name every page"
    results = dom(f'{(site/"search.html").as_uri()}?q={query}').split('id="search-results"')[1]
    assert re.search(rf'href="{page}[#"?]', results)

look = """<script>addEventListener('load', () => setTimeout(() => {
  const all = q => [...document.querySelectorAll(q)], where = o => o.tagName+'.'+o.className, wide = document.documentElement.clientWidth
  const scrolls = o => o && (['auto','scroll'].includes(getComputedStyle(o).overflowX) ? o : scrolls(o.parentElement))
  const right = o => (o = scrolls(o.parentElement)) && o.closest('article') ? 1e9 : document.querySelector('article').getBoundingClientRect().right
  const out = document.createElement('pre'); out.id = 'look'
  out.textContent = JSON.stringify({
    broken: all('article img').filter(o => !(o.complete && o.naturalWidth)).length, pictures: all('article img').length,
    silent: all('audio').filter(o => !(o.duration > 0) || o.error).length, players: all('audio').length,
    outside: all('article img, article audio, article table').filter(o => o.getBoundingClientRect().right > right(o)+1).map(where),
    small: all('article audio').filter(o => Math.min(o.offsetWidth, o.parentElement.offsetWidth) < 160).map(where),
    too_wide: Math.max(document.documentElement.scrollWidth, Math.floor(document.querySelector('article').getBoundingClientRect().right))-wide, ground: getComputedStyle(document.body).backgroundColor, letters: getComputedStyle(document.body).color})
  document.body.append(out) }, 1500))</script>"""

def seen(page, *args):
    "What a browser sees of a page"
    probe = page.with_name(f'_look_{page.name}')
    probe.write_text(page.read_text(encoding='utf-8').replace('</body>', look+'</body>'), encoding='utf-8')
    try: return json.loads(re.search(r'<pre id="look">(.*?)</pre>', dom(probe.as_uri(), *args), re.S)[1])
    finally: probe.unlink()

walk = ['index.html', 'tutorials/quick_start.html', 'callback/ogm_ge.html', 'data/av_digits.html', 'datasets/crema_d.html', 'results/methods.html', 'results/tables.html', 'tutorials/diagnose.html']
with_players = {'index.html', 'tutorials/quick_start.html', 'data/av_digits.html', 'datasets/crema_d.html', 'tutorials/diagnose.html'}

@needs_browser
@pytest.mark.parametrize('width', [1280, 400])
@pytest.mark.parametrize('page', walk)
def test_pages_in_a_browser(site, page, width):
    "Pictures are there, players have a sound, and nothing is cut off, on a narrow screen too"
    got = seen(site/page, f'--window-size={width},900')
    assert not got['broken'] and not got['silent'] and not got['outside'] and not got['small'] and got['too_wide']<=0, got
    assert bool(got['players'])==(page in with_players), got

def lightness(rgb): return sum(map(int, re.findall(r'\d+', rgb)[:3]))/3

@needs_browser
@pytest.mark.parametrize('page', walk[:5])
def test_dark_mode(site, page):
    light,dark = (seen(site/page, *args) for args in ((), ('--blink-settings=preferredColorScheme=0',)))
    assert lightness(light['ground'])>200>60>lightness(light['letters']) and lightness(dark['ground'])<60<150<lightness(dark['letters'])

def prose(html):
    "The text of a page, without code"
    return re.sub(r'<[^>]+>', '', re.sub(r'<(pre|code|script|style)\b.*?</\1>', '', html, flags=re.S))

def link_left(html):
    "The first link of Markdown that stands as text in a page"
    return (found := re.search(r'\]\((?=[^()\s]*[./#])[^()\s]+\)', prose(html))) and found[0]

def test_no_link_left_as_text(site):
    "A link around code in backticks is not one to nbdev, which makes a link of the code alone"
    for f in site.rglob('*.html'): assert not (found := link_left(f.read_text(encoding='utf-8'))), f'{f.name}: {found}'

@pytest.mark.parametrize('link', ['callback/ogm_ge.ipynb', 'https://arxiv.org/abs/2203.15332', '../a%20b.html?x=1', '#ogmge'])
def test_a_link_left_as_text_is_found(link):
    for inner in '<code>OGMGE</code>', '<a href="x.html"><code>OGMGE</code></a>', 'words': assert link_left(f'<p>See [{inner}]({link}).</p>')==f']({link})'
    assert not link_left(f'<p><a href="{link}">words</a> x[0](y) <code>[a]({link})</code></p>')

def test_words_on_kwargs():
    "What is said of the last parameter is not taken for what is said of the result"
    rows = {o.split(' | ')[0].strip('| *'): o for o in param_table(diagnose).splitlines()}
    assert 'BalanceInterpretation' in rows['kwargs'] and rows['Returns'].split('|')[2:]==[' **Diagnosis** ', '  ', '  ', '']

def test_no_table_left_as_text(site):
    "Markdown that a cell puts out is rendered with its tables"
    for f in site.rglob('*.html'): assert not (found := re.search(r'\| ?(-{3,}|—|–)+ ?\|', prose(f.read_text(encoding='utf-8')))), f'{f.name}: {found[0]}'

def test_no_name_of_the_kernel(site):
    "Signatures name types as a reader would"
    for f in site.rglob('*.html'): assert not (found := re.search(r'__main__|:NoneType=', re.sub(r'<[^>]+>', '', f.read_text(encoding='utf-8')))), f'{f.name}: {found[0]}'
