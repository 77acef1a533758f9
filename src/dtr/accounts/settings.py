"""How this room is set; `server/app.py` fills it in from the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """What the settings say about authentication; sizes in bytes."""

    service: str = "dtr"
    token_seconds: int = 300
    refresh_token_seconds: int = 30 * 86400
    refresh_tokens_per_user: int = 500
    refresh_tokens: str = "offer"
    credential_cache_seconds: float = 60
    header_bytes: int = 32768
    failed_logins_before_delay: int = 5
    failed_login_delay_seconds: float = 1
    failed_login_delay_max_seconds: float = 300
