"How `show_doc` shows parameters: a table below the signature, in place of comments inside it"
from inspect import Parameter
from fastcore.docments import DocmentTbl, docments
from nbdev.showdoc import BasicMarkdownRenderer

def param_table(sym):
    "The parameters of `sym` as a Markdown table; what is said of `**kwargs` stands there, too, and not at what is returned"
    res = DocmentTbl(sym)
    words = docments(sym, full=True, args_kwargs=True)
    for k in res.dm.keys() & words.keys(): res.dm[k]['docment'] = words[k]['docment'] or Parameter.empty
    return str(res)

class TableRenderer(BasicMarkdownRenderer):
    def _repr_markdown_(self):
        table = param_table(self.sym) if self.sig else ''
        if table:
            for p in self.dm.dm.values(): p['docment'] = ''
        return super()._repr_markdown_() + (f'\n\n{table}' if table else '')
