"""What every step shares: workspace, job target, retries, actor and failures."""
