"""Signing in and out. Every other page asks for a signed-in user by middleware."""

from django.contrib.auth import views

from apps.accounts.forms import SignInForm


class SignIn(views.LoginView):
    """Shows the form and starts a session; goes on to `next` when that is one of our own pages."""

    template_name = "accounts/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True


class SignOut(views.LogoutView):
    """Ends the session; POST only."""
