"""Tenants: their API keys, what each may use, and how much of it.

Importing this package imports pydantic and cryptography; whatever must start quickly imports it late.
"""

from loractl_registry.tenancy.access import Offer, usable_names
from loractl_registry.tenancy.errors import (
    ApiKeyExpiryError,
    ApiKeyNotFoundError,
    ApiKeyPrefixError,
    PepperDamagedError,
    PepperNotFoundError,
    PepperPermissionsError,
    TenantError,
    TenantExistsError,
    TenantNotFoundError,
    TenantRefusedError,
)
from loractl_registry.tenancy.keys import ApiKey, KeyRing, PresentedKey, create_key, parse_bearer, parse_prefix
from loractl_registry.tenancy.limits import LIMIT_NAMES, NO_LIMITS, Limits
from loractl_registry.tenancy.pepper import Pepper, ensure_pepper, load_pepper, pepper_path
from loractl_registry.tenancy.store import TenancySnapshot
from loractl_registry.tenancy.tenants import EVERY, Tenant, cache_salt, may_use

__all__ = [
    "EVERY",
    "LIMIT_NAMES",
    "NO_LIMITS",
    "ApiKey",
    "ApiKeyExpiryError",
    "ApiKeyNotFoundError",
    "ApiKeyPrefixError",
    "KeyRing",
    "Limits",
    "Offer",
    "Pepper",
    "PepperDamagedError",
    "PepperNotFoundError",
    "PepperPermissionsError",
    "PresentedKey",
    "TenancySnapshot",
    "Tenant",
    "TenantError",
    "TenantExistsError",
    "TenantNotFoundError",
    "TenantRefusedError",
    "cache_salt",
    "create_key",
    "ensure_pepper",
    "load_pepper",
    "may_use",
    "parse_bearer",
    "parse_prefix",
    "pepper_path",
    "usable_names",
]
