"""The sign-in form: a name and a password, refused for a while after too many wrong ones."""

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm

from apps.accounts import throttle


class SignInForm(AuthenticationForm):
    """Checks name and password; counts wrong ones by name and by address."""

    error_messages = {
        "invalid_login": "Name or password is wrong. Both are case-sensitive.",
        "inactive": "This user is switched off; ask an admin.",
        "throttled": "Too many wrong passwords. Try again in %(minutes)d min.",
    }

    username = forms.CharField(
        max_length=150,
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "username"}),
    )
    password = forms.CharField(
        strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "current-password"})
    )

    def clean(self) -> dict[str, Any]:
        """Check the pair. Raises ValidationError `throttled` without looking at the password."""
        name = self.cleaned_data.get("username", "")
        address = self.request.META.get("REMOTE_ADDR", "") if self.request else ""
        if wait_seconds := throttle.wait_seconds(name, address):
            raise forms.ValidationError(
                self.error_messages["throttled"],
                code="throttled",
                params={"minutes": -(-wait_seconds // 60)},
            )
        try:
            cleaned = super().clean()
        except forms.ValidationError:
            throttle.note_failure(name, address)
            raise
        throttle.forget(name, address)
        return dict(cleaned)
