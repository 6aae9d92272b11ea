"""Section [gate]: what a version must be like before it is served."""

from pydantic import Field

from service.settings import Section


class GateSettings(Section):
    """Bounds of the gate, in nats where nothing else is said, and the size of its memory."""

    quarantine_seconds: float = Field(
        3_600, gt=0, description="trials younger than this do not speak for a version"
    )
    slices: int = Field(8, ge=1, le=64, description="trials are drawn by as many parts of that")
    trials_per_slice: int = Field(48, ge=2, le=1_024, description="users drawn per slice")
    events_per_trial: int = Field(24, ge=1, description="the last events that a trial shows")
    popular: int = Field(64, ge=1, description="items popular now that trials are held against")
    taste: float = Field(1.0, gt=0, description="rise of the loss among items of the trial's time")
    crowd: float = Field(2.2, gt=0, description="rise of the loss among items popular now")
    action: float = Field(1.0, gt=0, description="rise of the loss of the action heads")
    suspicious: float = Field(
        0.25, gt=0, le=1, description="part of these bounds for a quarantine after an alarm"
    )
    per_hour: float = Field(0.2, ge=0, description="added per hour that the compared are apart")
    t: float = Field(4.0, ge=0, description="a rise counts from so many standard errors")
    least_trials: int = Field(50, ge=2, description="fewer trials hold nothing")
    alarm_loss: float = Field(0.8, gt=0, description="new events: loss off its usual value")
    alarm_edge: float = Field(0.3, gt=0, description="new events: lead over popularity lost")
    alarm_gain: float = Field(0.7, gt=0, description="new events: lead over popularity gained")
    quantized_loss: float = Field(0.02, gt=0, description="by quantization: rise of the loss")
    quantized_calibration: float = Field(
        0.05, gt=0, description="by quantization: relative change of mean probability"
    )
    quantized_score: float = Field(0.5, gt=0, description="by quantization: of any score")
    user_floor: int = Field(32, ge=1, description="positives a user may always teach in a block")
    user_share: float = Field(0.1, ge=0, le=1, description="share of a block one user may teach")

    @property
    def slice_ms(self) -> int:
        """Event time of one slice."""
        return max(1, int(self.quarantine_seconds * 1000 / self.slices))

    @property
    def quarantine_ms(self) -> int:
        """The quarantine in milliseconds."""
        return int(self.quarantine_seconds * 1000)
