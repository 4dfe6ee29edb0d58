"The site builds without a warning, loads nothing from the network, has no dead link; search, players and pictures work in a browser"
import re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse
import pytest

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

def test_nothing_from_the_network(pages):
    for f,page in pages.items():
        for o in page.resources: assert urlparse(o).scheme in ('', 'data'), f'{f.name} loads {o}'

def test_pictures_and_players(site, pages):
    sources = pages[site/'index.html'].resources
    assert sum(o.startswith('data:audio/wav') for o in sources)==3 and sum(o.startswith(('data:image/png', '_images/')) for o in sources)>=5

def dom(page): return subprocess.run([chromium, '--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=8000', '--dump-dom', page],
    capture_output=True, text=True, check=True, timeout=120).stdout

@needs_browser
@pytest.mark.parametrize('query,page', [('regbn', 'layers/regbn.html'), ('ogmge', 'callback/ogm_ge.html'), ('digits', 'data/av_digits.html')])
def test_search(site, query, page):
    assert re.search(rf'href="{page}[#"?]', dom(f'{(site/"search.html").as_uri()}?q={query}'))
