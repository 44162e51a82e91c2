"""umap-learn's one class, without its minute of compiling: gives the first two coordinates and keeps its settings."""

from types import ModuleType


class FakeUmap(ModuleType):
    """`monkeypatch.setitem(sys.modules, "umap", FakeUmap())`; `during` runs while a map is made."""

    def __init__(self):
        super().__init__("umap")
        self.asked, self.during = [], lambda: None

    def UMAP(self, **settings):  # noqa: N802  umap-learn's name
        self.asked.append(settings)
        return self

    def fit_transform(self, vectors):
        self.during()
        return vectors[:, :2]
