"How `show_doc` shows parameters: a table below the signature, in place of comments inside it"
from fastcore.docments import DocmentTbl
from nbdev.showdoc import BasicMarkdownRenderer

class TableRenderer(BasicMarkdownRenderer):
    def _repr_markdown_(self):
        table = str(DocmentTbl(self.sym)) if self.sig else ''
        if table:
            for p in self.dm.dm.values(): p['docment'] = ''
        return super()._repr_markdown_() + (f'\n\n{table}' if table else '')
