"""`balletal app`: the service's videos and steps in a Streamlit page."""
