"""Features of made-up SAEs."""

import numpy as np
from scipy.sparse import csr_array

from whatchanged.saes.features import SaeCard, SaeFeatures, group_texts
from whatchanged.saes.quality import SaeQuality

QUALITY = SaeQuality(0.83, 41.2, 0.95, 0.031)


def features_of(values, name="sae-a", **about):
    about = {"hook_point": "blocks.1.hook_resid_post", "layer": 1, "quality": QUALITY} | about
    return SaeFeatures(SaeCard(name, **about), csr_array(np.asarray(values, dtype=np.float32)))


def groups_of(categories):
    """Distinct texts, one per category given."""
    return group_texts([f"text {i}" for i in range(len(categories))], categories)


def planted(rng, *, sizes, d_sae, n_planted, inside=0.8, outside=0.03):
    """Values, and the category of each text: feature j < n_planted is of category j % n_categories;
    the others fire on unrelated texts, each with a frequency of its own."""
    category_of = np.repeat(np.arange(len(sizes)), sizes)
    rate = np.clip(rng.beta(0.3, 4, size=d_sae), 0.002, 0.9)
    chance = np.tile(rate, (len(category_of), 1))
    for feature in range(n_planted):
        is_inside = category_of == feature % len(sizes)
        chance[:, feature] = np.where(is_inside, inside, outside)
    fires = rng.random(chance.shape) < chance
    values = fires * rng.uniform(0.1, 2, size=chance.shape)
    return values.astype(np.float32), [f"topic {c}" for c in category_of]
