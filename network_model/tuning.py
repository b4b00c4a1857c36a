"""How the weights of a network are fine-tuned: the numbers, without Keras."""

from dataclasses import dataclass

TRAINABLE = ("all", "norm", "last")


@dataclass(frozen=True)
class Tuning:
    """How a network is fine-tuned; the defaults are those of the 2020 release.

    Attributes:
        data_weight: weight of the data consistency.
        tv_weight: weight of the total variation; 0.002 was used at low SNR.
        learning_rate: of Adam, times e^−0.1 every `decay_every` iterations.
        trainable: "all" weights, scale and shift of the "norm" layers, or the "last" convolution.
    """

    data_weight: float = 1.0
    tv_weight: float = 0.001
    learning_rate: float = 1e-5
    decay_every: int = 200
    trainable: str = "all"

    @classmethod
    def from_config(cls, config: dict) -> "Tuning":
        """The tuning's keys out of a step's config."""
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})

    def __post_init__(self):
        if self.trainable not in TRAINABLE:
            raise ValueError(
                f"trainable {self.trainable!r}: expected one of {', '.join(TRAINABLE)}"
            )
        for name, low in (("data_weight", 0), ("tv_weight", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number >= {low}")
        for name in ("learning_rate", "decay_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name)}: expected a number > 0")
