"""RAZH: parts are found by the attributes that are read there, matched with them, replaced by them; then hashed."""

from dataclasses import dataclass
from typing import Any, Literal

from razh.backbones.timm import TimmBackbone
from razh.backbones.views import chosen_views
from razh.support.bounds import NonNegative
from razh.terms.encoders import Encoder, Pooled, ViewEncoder
from razh.terms.method import TermMethod
from razh.terms.options import Code, Matching, Mixing, Parts, chosen
from razh.terms.weights import Weights


@dataclass(frozen=True)
class RAZHWeights(Weights):
    """The same for RAZH, with the terms of the two branches.

    Attributes:
        mix: reconstruction of replaced parts.
        mix_hash: classes told by the code of the mixed images.
        reconstruction: reconstruction of hidden patches.
    """

    semantic: NonNegative = 1.0
    classification: NonNegative = 0.1
    orthogonality: NonNegative = 0.1
    presence: NonNegative = 1.0
    background: NonNegative = 0.1
    entropy: NonNegative = 0.1
    smoothness: NonNegative = 0.1
    attributes: NonNegative = 1.0
    mix: NonNegative = 0.0
    mix_hash: NonNegative = 0.0
    reconstruction: NonNegative = 0.0


CODE = Code(attributes=0.5, attributes_from=40, untrained_attributes=2.0)
PARTS = Parts(order="attributes_first")
MATCHING, MIXING, WEIGHTS = Matching(), Mixing(), RAZHWeights()


class RAZH(TermMethod):
    """Zero-shot hashing based on reconstruction with part alignment (arXiv 2503.07037).

    **A re-implementation from the paper's abstract**; its body, hyper-parameters and code were not available. From the
    abstract: patches are grouped into parts by clustering, parts are matched with attributes, matched parts are
    replaced by attribute vectors step by step, and images are reconstructed. From second-hand summaries: a mix branch
    and a reconstruction branch, a split into an image's positive attributes and the others, and a loss of hash +
    classification + reconstruction terms. Everything else is a guess of ours and is marked so:

    - **attributes first** (our reading of "part alignment"): every attribute belongs to a part, by its name or learned;
      parts and background compete for every place; an attribute is read from the patches of its part alone, and told
      apart by the class's attributes (`weights.attributes`); once that has been learned, the code starts from the
      feature and from the attributes that were read (`code.attributes`), which it sees at test, too, if enough classes
      taught them (`code.attributes_from`); codes of an unlabelled collection are fitted to both
      (`code.collection_attributes`);
    - `parts.order=parts_first`: soft assignment to shared centres with a background slot (guess; asked for by the users
      of this project), each part matched with its nearest positive attribute afterwards;
    - straight-through nearest positive attribute, and the alignment term (guess; off by default);
    - replacement, mix and reconstruction work on the parts of either reading, and are **off by default**: on validation
      classes they gain nothing, and cost half a step (docs/explanation/findings.md);
    - positive is what a class has more of than others (our addition: else all parts take one of the few
      attributes that nearly every class has);
    - the share of replaced parts rises linearly over `mixing.ramp_epochs` (the paper: "gradually"; the form is a
      guess);
    - both branches predict pixels per patch, normalised as in MAE (guess);
    - classification by cosine with centred class attributes, on the feature and on the hash logits (guess);
    - `weights.similarity`: the code keeps the pairwise similarity of the feature that the network gave before it was
      trained (our addition);
    - hash head started from PCA + ITQ (our addition);
    - where a network with trained weights is frozen, this start and `similarity` see features whitened within classes:
      what a network has most of need not be what tells classes apart (our addition);
    - where no attributes are read and the network trains from random initialisation, the hash head sees how near the
      nearest part comes to each attribute (`code.responses`; our addition);
    - the description can be the mean descriptor of four `views` of the image, in the place of the feature, see
      `TimmBackbone.describe`: a frozen network sees objects at four `sizes` (the image, its middle .7 and .55, all
      `view_scale` times as large, and it as it is; two of them mirrored), a network that trains sees the image and its
      middle .7, and both `mirrored`. In training half of the images show the mean, the others one view. Costs four
      passes of the network for each image (our addition, off; `METHOD=razh_views` is this class with views, and without
      its terms on parts);
    - the hash head can see which classes an image resembles (`code.posteriors`; our addition, on with the views of a
      frozen network);
    - parts can learn to name the class by attributes (`weights.naming`; our addition, off).

    At test there is no label, hence no replacement and no decoder: the code is the sign of the hash head.

    A term of weight 0 is neither computed nor logged, and modules that only it needs are not built. What each term is,
    its class in `razh.terms` says.
    """

    def __init__(
        self,
        *,
        hash_init: Literal["auto", "itq", "pca", "whitened", "random"] = "auto",
        views: Literal["none", "auto", "sizes", "mirrored"] = "none",
        code: Code = CODE,
        parts: Parts = PARTS,
        matching: Matching = MATCHING,
        mixing: Mixing = MIXING,
        weights: RAZHWeights = WEIGHTS,
        **kwargs: Any,
    ) -> None:
        """Build the method.

        Args:
            hash_init: see `HashingMethod`. auto: `whitened` where a network with trained weights is frozen, else `itq`.
            views: see `HashingMethod`.
            code: how the feature becomes a code, see `Code`; a dict names what differs from the default, here and in
                the other groups.
            parts: how patches become parts, see `Parts`.
            matching: how a part finds its attribute, see `Matching`.
            mixing: how parts give way to attributes, and what is rebuilt, see `Mixing`.
            weights: of the terms, see `Weights` and `RAZHWeights`.
            **kwargs: see `HashingMethod`.

        Raises:
            ValueError: an option out of its range, or one that a group does not have; views of no such name; views
                together with the term `mix_hash`, which hashes features.
        """
        backbone: TimmBackbone = kwargs["backbone"]
        if hash_init == "auto":
            hash_init = "whitened" if backbone.frozen_with_weights else "itq"
        parts, weights = chosen(PARTS, parts), chosen(WEIGHTS, weights)
        reads = weights.attributes > 0 and parts.granularity == "part"
        several = bool(chosen_views(views, backbone.freeze))
        if several and weights.mix_hash:
            raise ValueError("weights.mix_hash hashes features, and views have descriptors; set it to 0, or views=none")
        super().__init__(
            code=chosen(CODE, code).resolve(
                backbone,
                parts.granularity,
                len(kwargs["train_classes"]),
                posteriors="training" if several else "none",
                responses="none" if reads else "patch" if several else "part",
            ),
            parts=parts,
            matching=chosen(MATCHING, matching),
            mixing=chosen(MIXING, mixing),
            weights=weights,
            hash_init=hash_init,
            views=views,
            **kwargs,
        )

    def make_encoder(self) -> Encoder:
        """Return the backbone's feature, or the mean descriptor of the views."""
        return ViewEncoder(self.backbone, self.views, self.view_scale) if self.views else Pooled(self.backbone)
