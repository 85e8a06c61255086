"""Who may use the service: roles and permissions, tokens, certificates, and the current call.

The store has the tables (``service/store/access.py``, ``service/store/audit.py``); the API checks calls in
``service/api/authorization.py``.
"""

from __future__ import annotations

from service.access.calls import Call, audit_detail, calling, current_call, current_caller
from service.access.rules import RULES, Rule
from service.domain.access import LOCAL_OWNER, PERMISSIONS, Caller, Permission, Role

__all__ = [
    "LOCAL_OWNER",
    "PERMISSIONS",
    "RULES",
    "Call",
    "Caller",
    "Permission",
    "Role",
    "Rule",
    "audit_detail",
    "calling",
    "current_call",
    "current_caller",
]
