"""What do the options that every method has do (:class:`vpeft.core.contract.options.Options`)?"""
